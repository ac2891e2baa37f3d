"""A stand-in of the Hugging Face hub on loopback: what huggingface_hub asks of it, and no more.

Repositories with commits, branches and tags; small files as blobs of Git, large ones by the LFS
routes (batch, upload, verify; a redirect to where the bytes lie); who may write where. Errors carry
the headers by which the hub says what is wrong. Xet, its newer storage, is not here: the tests set
HF_HUB_DISABLE_XET, and huggingface_hub takes the LFS routes.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field

TOKENS = {"hf_alice": "alice", "hf_reader": None}
"""Whose they are; a token that may only read is nobody's."""
LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
  private: bool = False
  commits: list = field(default_factory=list)  # (sha, {name: content}), the oldest first
  tags: dict = field(default_factory=dict)

  def __post_init__(self):
    self.commit({".gitattributes": b"*.safetensors filter=lfs\n"})

  def commit(self, files: dict) -> str:
    held = {**(self.commits[-1][1] if self.commits else {}), **files}
    text = json.dumps([len(self.commits), *sorted((n, _sha256(c)) for n, c in held.items())])
    self.commits.append((hashlib.sha1(text.encode()).hexdigest(), held))
    return self.newest

  @property
  def newest(self) -> str:
    return self.commits[-1][0]

  def at(self, revision: str) -> tuple[str, dict] | None:
    sha = self.newest if revision == "main" else self.tags.get(revision, revision)
    return next((commit for commit in self.commits if commit[0] == sha), None)


class Hub:
  """The state of the stand-in.

  Attributes:
    repositories: by `owner/name`.
    large: what was uploaded by LFS, by its SHA-256.
    faults: statuses that the next requests to a path that holds a text are answered with:
      {"/commit/": [503]}.
    interrupt: is called before a commit is made, with the hub.
  """

  def __init__(self):
    self.repositories: dict[str, Repository] = {}
    self.large: dict[str, bytes] = {}
    self.faults: dict[str, list[int]] = {}
    self.interrupt = lambda hub: None
    self.url = ""

  def add(self, repo: str, files: dict, **options) -> Repository:
    made = self.repositories[repo] = Repository(**options)
    made.commit(files)
    return made

  def file(self, repo: str, name: str) -> bytes:
    return self.repositories[repo].commits[-1][1][name]


@contextlib.contextmanager
def serve():
  """A `Hub` that answers at `hub.url`."""
  hub = Hub()
  handler = type("Handler", (_Handler,), {"hub": hub})
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
      yield hub
    finally:
      server.shutdown()
      thread.join()


def _sha256(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
  """Git's name of a file."""
  return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _RefusedError(Exception):
  def __init__(self, status: int, message: str, code: str = ""):
    self.status, self.message, self.code = status, message, code


NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"


class _Handler(http.server.BaseHTTPRequestHandler):
  hub: Hub
  protocol_version = "HTTP/1.1"

  def log_message(self, *arguments):
    pass

  def do_any(self):
    self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    path = urllib.parse.urlsplit(self.path).path
    try:
      for text, statuses in self.hub.faults.items():
        if text in path and statuses:
          raise _RefusedError(statuses.pop(0), "out of order")
      for method, pattern, answer in self.routes:
        match = re.fullmatch(pattern, path)
        if match and self.command in method:
          parts = {name: urllib.parse.unquote(text) for name, text in match.groupdict().items()}
          return answer(self, **parts)
      raise _RefusedError(404, f"the stand-in has no {self.command} {path}")
    except _RefusedError as error:
      headers = {"X-Error-Message": error.message, "X-Error-Code": error.code}
      return self._answer(error.status, {"error": error.message}, headers)

  do_GET = do_HEAD = do_POST = do_PUT = do_any

  def _answer(self, status=200, content=b"", headers=()):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    self.send_response(status)
    for name, value in dict(headers).items():
      self.send_header(name, value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)

  def _user(self) -> str | None:
    token = self.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and token not in TOKENS:
      raise _RefusedError(401, "Invalid credentials in Authorization header")
    return TOKENS.get(token)

  def _found(self, repo: str) -> Repository:
    user, found = self._user(), self.hub.repositories.get(repo)
    if found is None or (found.private and user != repo.split("/")[0]):
      raise _RefusedError(404 if user else 401, "Repository not found", "RepoNotFound")
    return found

  def _at(self, repo: str, revision: str) -> tuple[str, dict]:
    commit = self._found(repo).at(revision)
    if commit is None:
      raise _RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit

  def _writable(self, repo: str) -> Repository:
    found = self._found(repo)
    self._require_owner(repo.split("/")[0])
    return found

  def _require_owner(self, owner: str) -> None:
    if self._user() != owner:
      raise _RefusedError(403, f"You don't have the rights to write under {owner}")

  def create(self):
    asked = json.loads(self.body)
    if not self.headers.get("Authorization"):
      raise _RefusedError(401, "Invalid username or password.")
    self._require_owner(asked["organization"] or self._user())
    repo = f"{asked['organization']}/{asked['name']}"
    if repo in self.hub.repositories:
      raise _RefusedError(409, "You already created this model repo")
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    self.hub.repositories[repo] = Repository(private)
    self._answer(200, {"url": f"{self.hub.url}/{repo}", "name": repo})

  def validate(self):
    header = json.loads(self.body)["content"].split("---\n")[1]
    bad = [line for line in header.splitlines() if not re.fullmatch(r"[a-z_]+: \S.*", line)]
    if "license" in header and not re.search(r'license: "(apache-2.0|mit)"', header):
      bad.append('license must be one of "apache-2.0", "mit"')
    self._answer(400 if bad else 200, {"errors": [{"message": b} for b in bad], "warnings": []})

  def info(self, repo, revision="main"):
    sha, files = self._at(repo, revision)
    siblings = [
      {"rfilename": name, "size": len(content), "blobId": _blob(content)}
      | ({"lfs": _lfs(content)} if _is_large(name) else {})
      for name, content in files.items()
    ]
    self._answer(200, {"id": repo, "sha": sha, "siblings": siblings})

  def preupload(self, repo, revision):
    held = self._writable(repo).at(revision)[1]
    self._answer(
      200,
      {
        "files": [
          {"path": file["path"], "uploadMode": "lfs" if _is_large(file["path"]) else "regular"}
          | {"shouldIgnore": False, "oid": _oid(file["path"], held.get(file["path"]))}
          for file in json.loads(self.body)["files"]
        ]
      },
    )

  def batch(self, repo):
    self._writable(repo)
    objects = [
      {"oid": each["oid"], "size": each["size"]}
      | (
        {}
        if each["oid"] in self.hub.large
        else {"actions": {way: {"href": f"{self.hub.url}/lfs/{way}/{each['oid']}"} for way in WAYS}}
      )
      for each in json.loads(self.body)["objects"]
    ]
    self._answer(200, {"transfer": "basic", "objects": objects})

  def upload(self, oid):
    if _sha256(self.body) != oid:
      raise _RefusedError(422, "this is not the file of that checksum")
    self.hub.large[oid] = self.body
    self._answer()

  def verify(self, oid):
    if len(self.hub.large.get(oid, b"")) != json.loads(self.body)["size"]:
      raise _RefusedError(422, "the file is not there")
    self._answer()

  def commit(self, repo, revision):
    self.hub.interrupt(self.hub)
    found = self._writable(repo)
    files = {}
    for line in map(json.loads, self.body.splitlines()):
      value = line["value"]
      if line["key"] == "header" and value.get("parentCommit", found.newest) != found.newest:
        raise _RefusedError(412, "The parent commit is not the newest one")
      if line["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
      if line["key"] == "lfsFile":
        files[value["path"]] = self.hub.large[value["oid"]]
    sha = found.commit(files)
    url = f"{self.hub.url}/{repo}/commit/{sha}"
    self._answer(200, {"success": True, "commitOid": sha, "commitUrl": url})

  def resolve(self, repo, revision, name):
    sha, files = self._at(repo, revision)
    if name not in files:
      raise _RefusedError(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": sha, "ETag": f'"{_blob(files[name])}"'}
    if not _is_large(name):
      return self._answer(200, files[name], headers)
    oid = _sha256(files[name])
    self.hub.large[oid] = files[name]
    linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": len(files[name])}
    # The bytes lie on another host, as on the hub: tokens must not go there.
    place = {"Location": f"{self.hub.url.replace('127.0.0.1', 'localhost')}/lfs/get/{oid}"}
    return self._answer(302, b"", headers | linked | place)

  def download(self, oid):
    if self.headers.get("Authorization"):
      raise _RefusedError(400, "a token was sent to another host")
    self._answer(200, self.hub.large[oid], {"ETag": f'"{oid}"'})

  routes = (
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate),
    ("GET", f"/api/models/{NAME}", info),
    ("GET", f"/api/models/{NAME}/revision/(?P<revision>[^/]+)", info),
    ("POST", f"/api/models/{NAME}/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", f"/{NAME}.git/info/lfs/objects/batch", batch),
    ("PUT", "/lfs/upload/(?P<oid>[0-9a-f]+)", upload),
    ("POST", "/lfs/verify/(?P<oid>[0-9a-f]+)", verify),
    ("POST", f"/api/models/{NAME}/commit/(?P<revision>[^/]+)", commit),
    ("GET HEAD", f"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", resolve),
    ("GET HEAD", "/lfs/get/(?P<oid>[0-9a-f]+)", download),
  )


WAYS = ("upload", "verify")


def _is_large(name: str) -> bool:
  return name.endswith(LARGE)


def _lfs(content: bytes) -> dict:
  return {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}


def _oid(name: str, content: bytes | None) -> str | None:
  name_of = _sha256 if _is_large(name) else _blob
  return None if content is None else name_of(content)

"""Repositories of the Hugging Face hub: `hf://owner/name` as a source of weights, and sharing them.

Files are fetched here and read elsewhere, by the readers of `pst_jax.convert`, which run nothing of
them. All of a repository is of one commit. Needs huggingface_hub (extra `hub`), which says where
the hub is (HF_ENDPOINT), who asks (HF_TOKEN) and where copies lie (HF_HOME).
"""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pst_jax.errors import UserError
from pst_jax.files import parse_json
from pst_jax.install import how_to_install
from pst_jax.wording import listed

PREFIX = "hf://"
WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.json", "README.md"
"""The files that a shared run has."""
WEIGHT_FILES = (WEIGHTS, "model.safetensors", "pytorch_model.bin")
"""Where weights are looked for: ours, then the names that timm and others give."""
MOST_CONFIG = 2**24
"""Bytes of the largest config.json that is read."""

_NAME = r"(?![^/]*(?:\.\.|--))[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_REVISION = r"(?!.*\.\.)[\w][\w./-]*"
_ADDRESS = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>{_REVISION}))?", re.ASCII)
_log = logging.getLogger(__name__)


class Address(NamedTuple):
  """A repository, `owner/name`, and a branch, tag or commit of it; None: the newest."""

  repo: str
  revision: str | None = None

  def __str__(self) -> str:
    return PREFIX + self.repo + (f"@{self.revision}" if self.revision else "")


class Fetched(NamedTuple):
  """What was fetched of a repository.

  Attributes:
    weights: a file in the cache of huggingface_hub.
    config: the content of its config.json; None: it has none.
  """

  weights: pathlib.Path
  config: dict | None


def is_address(source: str | os.PathLike) -> bool:
  """Whether a source of weights is a repository of the hub, not a place on a disk."""
  return os.fspath(source).startswith(PREFIX)


def parse(text: str) -> Address:
  """The repository that `hf://owner/name`, `hf://owner/name@revision` or `owner/name` names.

  Raises:
    UserError: it names none.
  """
  match = _ADDRESS.fullmatch(str(text).removeprefix(PREFIX))
  if match is None:
    raise UserError(
      f"{text!r} names no repository of the hub: give {PREFIX}owner/name, or "
      f"{PREFIX}owner/name@revision for a branch, a tag or a commit"
    )
  return Address(*match.group("repo", "revision"))


def fetch(source: str) -> Fetched:
  """Downloads the weights and config.json of a repository, or takes them from the cache.

  Where the hub cannot be reached the copies in the cache are taken, with a warning.

  Raises:
    UserError: there is no such repository or revision, or this user may not see it; it holds no
      weights, or a config.json that cannot be; the hub cannot be reached and nothing is cached.
  """
  address = parse(source)
  api = _api()
  try:
    with _explained(address):
      info = api.model_info(address.repo, revision=address.revision, files_metadata=True)
  except _UnreachableError as error:
    return _from_cache(api, address, error)
  sizes = {file.rfilename: file.size for file in info.siblings}
  name = next((name for name in WEIGHT_FILES if name in sizes), None)
  if name is None:
    has = listed(sizes) or "nothing"
    raise UserError(f"{address}: it holds none of {', '.join(WEIGHT_FILES)}, but {has}")
  _check_size(address, sizes.get(CONFIG))
  with _explained(address):
    # By the revision's own name, which the cache then knows; the folder has that of the commit.
    weights = pathlib.Path(api.hf_hub_download(address.repo, name, revision=address.revision))
    config = None
    if CONFIG in sizes:
      config = api.hf_hub_download(address.repo, CONFIG, revision=weights.parent.name)
  return Fetched(weights, read_config(address, config))


def _from_cache(api, address: Address, unreachable: UserError) -> Fetched:
  from huggingface_hub.errors import EntryNotFoundError

  paths = {}
  for name in (*WEIGHT_FILES, CONFIG):
    with contextlib.suppress(EntryNotFoundError):
      paths[name] = api.hf_hub_download(
        address.repo, name, revision=address.revision, local_files_only=True
      )
  name = next((name for name in WEIGHT_FILES if name in paths), None)
  if name is None:
    raise UserError(f"{unreachable}, and there is no copy on this machine") from None
  _log.warning("%s; the copy on this machine is taken.", unreachable)
  return Fetched(pathlib.Path(paths[name]), read_config(address, paths.get(CONFIG)))


def _check_size(address: Address, size: int | None) -> None:
  if size is not None and size > MOST_CONFIG:
    raise UserError(
      f"{address}: its {CONFIG} has {size:,} bytes, where {MOST_CONFIG:,} are the most: give "
      "another repository"
    )


def read_config(address: Address, path: str | None) -> dict | None:
  """The content of a config.json that was fetched; None: there is none.

  Raises:
    UserError: it is no JSON, or no object, or too large.
  """
  if path is None:
    return None
  _check_size(address, os.path.getsize(path))  # the hub may have said another
  try:
    config = parse_json(pathlib.Path(path).read_bytes())
  except ValueError as error:
    raise UserError(f"{address}: its {CONFIG} is no JSON ({error}): mend it") from None
  if not isinstance(config, dict):
    raise UserError(f"{address}: its {CONFIG} is a {type(config).__name__}, not an object: mend it")
  return config


def check_free(address: Address, *, force: bool = False) -> str | None:
  """The newest commit of a repository that may be written to; None: there is no such repository.

  Raises:
    UserError: it holds something and not `force`, or belongs to somebody else; nobody is logged in.
  """
  api = _api()
  if address.revision:
    raise UserError(f"{address}: what is pushed becomes the newest: leave @{address.revision} out")
  if not _token():
    raise UserError(f"{address}: pushing needs a token of yours: {_LOG_IN}")
  from huggingface_hub.errors import RepositoryNotFoundError

  try:
    with _explained(address, RepositoryNotFoundError):
      info = api.model_info(address.repo)
  except RepositoryNotFoundError:
    return None
  held = [file.rfilename for file in info.siblings if file.rfilename != ".gitattributes"]
  if held and not force:
    raise UserError(
      f"{address}: this name is taken ({listed(held)}), and what is there is kept: choose another, "
      "or use --force, which adds a commit with the new files; the old ones stay in its history"
    )
  return info.sha


def publish(
  address: Address,
  files: Mapping[str, pathlib.Path | bytes],
  *,
  commit: str | None,
  message: str,
  private: bool | None = None,
) -> str:
  """Adds files to a repository in one commit, and returns the web address of that commit.

  Args:
    address: of the repository.
    files: {name in the repository: a file, or its content}; others there stay as they are.
    commit: what `check_free` returned; None: the repository is made.
    message: of the commit.
    private: whom a new repository is for: this user, or (False) everybody; None: as the hub is set.

  Raises:
    UserError: the hub refuses, cannot be reached, or another commit came in between; nothing of
      what was there is changed.
  """
  from huggingface_hub import CommitOperationAdd

  api = _api()
  if commit is None:
    with _explained(address):
      api.create_repo(address.repo, private=private)
  try:
    with _explained(address):
      operations = [CommitOperationAdd(name, content) for name, content in files.items()]
      done = api.create_commit(
        address.repo, operations, commit_message=message, parent_commit=commit
      )
  except UserError as error:
    new = "" if commit else "; the repository is made, and empty"
    raise UserError(f"{error}{new}; nothing was shared: mend that, then push again") from None
  return done.commit_url


def _api():
  try:
    import huggingface_hub
  except ImportError as error:
    raise UserError(
      f"{PREFIX} is read and written with huggingface_hub ({error}): "
      f"{how_to_install('huggingface_hub')}"
    ) from None
  return huggingface_hub.HfApi(library_name="pst_jax")


def _token() -> str | None:
  from huggingface_hub import get_token

  return get_token()


class _UnreachableError(UserError):
  """The hub could not be asked, which says nothing of the repository."""


_LOG_IN = "`hf auth login` keeps one, or set HF_TOKEN"
_STATUS = {
  401: f"the hub does not know the token, or wants one: {_LOG_IN}",
  403: "this user, or this token, may not do that: choose a name of your own account or "
  "organization, and a token that may write",
  409: "this name is taken: choose another",
  412: "somebody else pushed to it meanwhile: look at what is there, then push again",
  413: "the hub finds the files too large",
  429: "the hub was asked too often: wait some minutes",
}


@contextlib.contextmanager
def _explained(address: Address, *passed: type[Exception]) -> Iterator[None]:
  """Turns what huggingface_hub raises into a UserError; what is `passed` stays as it is."""
  try:
    yield
  except passed:
    raise
  except Exception as error:
    raise _user_error(address, error) from None


def _user_error(address: Address, error: Exception) -> Exception:
  from huggingface_hub import errors

  wrappers: Sequence = (RuntimeError, errors.LocalEntryNotFoundError)
  while isinstance(error, wrappers) and isinstance(error.__cause__, Exception):
    error = error.__cause__
  if isinstance(error, errors.GatedRepoError):
    return UserError(f"{address}: its owner gives access on request: ask for it on its page")
  if isinstance(error, errors.RepositoryNotFoundError):
    who = "this user may not see it" if _token() else f"it wants a token ({_LOG_IN})"
    return UserError(f"{address}: there is no such repository, or {who}: check the name")
  if isinstance(error, errors.RevisionNotFoundError):
    return UserError(f"{address}: it has no such branch, tag or commit: check what follows the @")
  if isinstance(error, errors.HfHubHTTPError):
    status = error.response.status_code
    kind = _UnreachableError if status >= 500 else UserError
    said = " ".join((error.server_message or "").split())[:300]
    reason = _STATUS.get(status, f"the hub answered with status {status}")
    return kind(f"{address}: {reason}" + (f" (it said: {said})" if said else ""))
  # The base of its own errors is that of the HTTP library, whose name changes with versions.
  is_of_network = isinstance(error, (errors.HfHubHTTPError.__mro__[1], ConnectionError))
  if is_of_network:
    return _UnreachableError(f"{address}: the hub cannot be reached ({_in_short(error)})")
  if isinstance(error, OSError) and error.errno is not None:
    return error  # of the disk, and it names the file
  what = f"{type(error).__name__}: {_in_short(error)}"
  return UserError(f"{address}: this went wrong between huggingface_hub and the hub: {what}")


def _in_short(error: Exception) -> str:
  return " ".join(str(error).split())[:300] or type(error).__name__

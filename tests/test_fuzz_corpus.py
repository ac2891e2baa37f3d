"""Every input that fuzzing starts from, or once broke a reader: `python -m fuzz.run` finds more."""

import pytest

from fuzz.run import CORPUS, NAMES
from fuzz.targets import TARGETS, check

INPUTS = [path for path in sorted(CORPUS.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_reader_takes_or_refuses_it_within_its_limits(path):
  check(TARGETS[path.parent.name], path.read_bytes())


def test_every_target_has_inputs():
  assert set(NAMES) == set(TARGETS)
  assert all(any((CORPUS / name).iterdir()) for name in TARGETS)


def test_a_target_that_breaks_is_noticed():
  def raises(data):
    raise KeyError(data)

  def takes_memory(data):
    bytearray(2**26)

  with pytest.raises(KeyError):
    check(raises, b"")
  with pytest.raises(AssertionError, match="bytes for 0"):
    check(takes_memory, b"")

"""Checkpoints in a bucket: saved, restored, and what a store that fails does to them."""

import pytest
from support.saved_states import abstract, same_bits, save_steps, small_state

from pst_jax.checkpoints import layout
from pst_jax.checkpoints.verify import verify_all
from pst_jax.errors import UserError
from train.run.checkpoints import Checkpoints


def restored(folder):
  with Checkpoints(folder) as checkpoints:
    return checkpoints.restore(abstract(small_state(1)))


def steps(folder):
  return layout.saved_steps(layout.absolute(folder))


def test_a_checkpoint_is_saved_and_restored(folder):
  save_steps(folder, [1, 2, 3])
  assert restored(folder).step == 3
  assert same_bits(restored(folder).state, small_state(3))
  assert steps(folder) == [2, 3]
  assert [each.problem for each in verify_all(layout.absolute(folder))] == [None, None]


def test_a_save_that_was_killed_is_no_checkpoint(folder):
  save_steps(folder, [1, 2])
  path = layout.absolute(folder)
  layout.marker(path / "2").write_text("")
  (path / "2" / layout.COMMITTED).unlink()
  assert steps(folder) == [1]
  assert restored(folder).step == 1
  save_steps(folder, [2])
  assert same_bits(restored(folder).state, small_state(2))


def test_a_corrupt_checkpoint_is_set_aside(folder):
  save_steps(folder, [1, 2])
  path = layout.absolute(folder)
  (path / "2" / "state" / "manifest.ocdbt").unlink()
  assert restored(folder).step == 1
  assert steps(folder) == [1]
  assert (path / "damaged" / "2" / "record" / "metadata").exists()


def test_read_back_reads_from_the_bucket(folder):
  save_steps(folder, [1, 2], read_back=True)
  assert steps(folder) == [1, 2]


def test_a_store_that_fails_for_a_moment_is_asked_again(folder, store):
  left = iter(range(100))
  store.rule = lambda method, path: 503 if next(left, 100) % 12 == 5 else None
  save_steps(folder, [1])
  store.rule = lambda method, path: None
  assert same_bits(restored(folder).state, small_state(1))


def test_answers_that_are_slow_or_cut_are_waited_for(folder, store):
  save_steps(folder, [1])
  left = iter(range(60))
  faults = {0: 0.3, 3: "cut"}
  store.rule = lambda method, path: faults.get(next(left, 1) % 6) if "alt=media" in path else None
  assert same_bits(restored(folder).state, small_state(1))


@pytest.mark.parametrize(
  "pattern", ["2.unfinished", "state/.*manifest", "2/record/metadata", "/2/commit_success"]
)
def test_a_save_that_is_refused_ends_in_a_sentence_and_loses_nothing(folder, store, pattern):
  save_steps(folder, [1])
  with pytest.raises(UserError) as error, Checkpoints(folder) as checkpoints:
    store.fail(403, pattern=pattern, method="POST")
    checkpoints.save(2, small_state(2), extra={})
    checkpoints.wait()
  assert "Saving a checkpoint in gs://bucket/" in str(error.value)
  assert "the last good one is step 1; mend that" in str(error.value)
  assert "\n" not in str(error.value)
  store.rule = lambda method, path: None
  assert restored(folder).step == 1
  save_steps(folder, [2])
  assert same_bits(restored(folder).state, small_state(2))


def test_a_step_that_cannot_be_looked_at_is_not_passed_over(folder, store):
  save_steps(folder, [1, 2])
  store.fail(403, pattern=r"prefix=[^&]*/2/", method="GET")
  with pytest.raises(PermissionError, match="access was refused"):
    steps(folder)


@pytest.mark.parametrize("pattern", ["2/state/.*alt=media", "2/record/metadata"])
def test_a_store_that_refuses_is_not_taken_for_corrupt(folder, store, pattern):
  save_steps(folder, [1, 2])
  store.fail(403, pattern=pattern, method="GET")
  with (
    pytest.raises(UserError, match=r"cannot be read .* nothing was moved"),
    Checkpoints(folder) as checkpoints,
  ):
    checkpoints.restore(abstract(small_state(1)))
  store.rule = lambda method, path: None
  assert steps(folder) == [1, 2]
  assert restored(folder).step == 2

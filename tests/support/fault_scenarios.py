"""What faults hit: saves, restores, the folder of a run, files of weights."""

import contextlib
import functools
import io
import pathlib
import shutil
import tempfile
from unittest import mock

import cv2
import numpy as np
from support.faults import Scenario
from support.saved_states import abstract, same_bits, small_state, steps_in

from pst_jax.checkpoints import layout
from pst_jax.checkpoints.verify import verify_all
from pst_jax.convert.formats.orbax_folder import write_folder
from pst_jax.convert.formats.safetensors_file import read_safetensors, write_safetensors
from pst_jax.convert.metadata import Metadata
from pst_jax.folders import recover_folder
from train import prepare
from train.config import Config, DataConfig
from train.config_values import to_json
from train.data.bad_images import GoodRecords
from train.run.checkpoints import Checkpoints
from train.run.folder import RunFolder, open_run
from train.run.metric_files import MetricFiles
from train.tasks.classification.data import open_dataset

STATES = {step: small_state(step, devices=1) for step in (1, 2, 3)}


_temporary = []


def _new_folder() -> pathlib.Path:
  """One that lasts as long as the process."""
  _temporary.append(tempfile.TemporaryDirectory(prefix="faults"))
  return pathlib.Path(_temporary[-1].name)


@functools.cache
def _template() -> pathlib.Path:
  folder = _new_folder()
  for steps in ([1], [1, 2]):
    with Checkpoints(folder / str(len(steps)), keep_latest=9) as checkpoints:
      for step in steps:
        checkpoints.save(step, STATES[step], extra={})
  return folder


def _with_steps(count: int, folder: pathlib.Path) -> None:
  shutil.copytree(_template() / str(count), folder)


def _save(folder: pathlib.Path, **options) -> None:
  with Checkpoints(folder, **options) as checkpoints:
    checkpoints.save(2, STATES[2], extra={})


def _save_in_place(folder: pathlib.Path) -> None:
  """As where folders cannot be renamed."""
  with mock.patch.object(layout, "can_rename", lambda directory: False):
    _save(folder)


def _restore(folder: pathlib.Path):
  with Checkpoints(folder, keep_latest=9) as checkpoints:
    return checkpoints.restore(abstract(STATES[1]))


def _is_good(restored) -> bool:
  return same_bits(restored.state, STATES[restored.step])


def _saved_or_not(keep_latest: int, folder: pathlib.Path, said: str | None) -> None:
  """The new one is there if nothing was said; else the new or the old one, which is never lost."""
  restored = _restore(folder)
  assert _is_good(restored), f"wrong values of step {restored.step}"
  assert said or restored.step == 2, f"step {restored.step} after a save without an error"
  assert keep_latest == 1 or 1 in steps_in(folder), f"there are {steps_in(folder)}"
  assert not (folder / "damaged").exists(), "a checkpoint was set aside"


def _read_or_not(folder: pathlib.Path, said: str | None) -> None:
  assert steps_in(folder) == [1, 2], f"there are {steps_in(folder)}"
  assert not (folder / "damaged").exists(), "a checkpoint was set aside"
  restored = _restore(folder)
  assert restored.step == 2, f"step {restored.step}"
  assert _is_good(restored), "wrong values"


def _restore_the_newest(folder: pathlib.Path) -> None:
  restored = _restore(folder)
  assert restored.step == 2, f"step {restored.step} in the place of the newest"
  assert _is_good(restored), "wrong values"


def _config(folder: pathlib.Path) -> Config:
  return Config(run_dir=str(folder / "run"))


def _start_run(folder: pathlib.Path) -> None:
  with open_run(_config(folder)) as run:
    files = MetricFiles(run.path, 2)
    try:
      files.write(3, {"loss": 3.0})
      files.sync()
    finally:
      files.close()


def _resumable(folder: pathlib.Path) -> None:
  (folder / "run").mkdir(parents=True)
  run = RunFolder(folder / "run")
  run.config.write_text(to_json(_config(folder)))
  run.run_id.write_text("mine\n")
  run.metrics.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3)))


def _is_run(is_resumed: bool, folder: pathlib.Path, said: str | None) -> None:
  """What is there is whole, nothing of a resumed run is lost, and the next start works."""
  run = RunFolder(folder / "run")
  if is_resumed or run.config.exists():
    assert run.read_config() == _config(folder)
  if is_resumed:
    assert run.run_id.read_text() == "mine\n"
    assert run.metrics.read_text().startswith('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 1.0}')
  if not said:
    assert run.metrics.read_text().endswith('{"step": 3, "loss": 3.0}\n')
  _start_run(folder)
  assert run.metrics.read_text().endswith('{"step": 3, "loss": 3.0}\n')
  assert not list(run.path.glob(".pst_jax-*")), "a temporary file stays"


def _arrays(seed: int) -> dict:
  return {"params": {"kernel": np.full((8, 8), seed, np.float32)}, "batch_stats": {}}


def _write_file(seed: int, folder: pathlib.Path) -> None:
  folder.mkdir(exist_ok=True)
  write_safetensors(folder / "w", _arrays(seed)["params"], {"seed": seed}, force=True)


def _write_folder(seed: int, folder: pathlib.Path) -> None:
  folder.mkdir(exist_ok=True)
  metadata = Metadata("resnet18_pst", {"num_classes": 3}, source=str(seed))
  write_folder(folder / "w", _arrays(seed), metadata, force=True)


def _file_is_old_or_new(folder: pathlib.Path, said: str | None) -> None:
  found = read_safetensors(folder / "w").state_dict["kernel"].flat[0]
  assert found == 2 or (said and found == 1), f"it holds {found}"
  assert [path.name for path in folder.iterdir()] == ["w"], "a temporary file stays"


def _folder_is_old_or_new(folder: pathlib.Path, said: str | None) -> None:
  recover_folder(folder / "w")
  (verdict,) = verify_all(folder / "w")
  assert verdict.problem is None, verdict.problem
  source = layout.read_record(folder / "w", 0)["extra"]["weights"]["source"]
  assert source == "2" or (said and source == "1"), f"it holds {source}"
  _write_folder(3, folder)
  left = sorted(path.name for path in folder.iterdir())
  # Nor can a folder be opened to be deleted as long as no file can.
  assert left[-1:] == ["w"] and (len(left) == 1 or "Too many" in (said or "")), f"{left} stay"


@functools.cache
def _prepared() -> pathlib.Path:
  folder = _new_folder()
  for split, count in (("train", 5), ("test", 2)):
    for index in range(count):
      path = folder / "source" / split / "ab"[index % 2] / f"{index}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      cv2.imwrite(str(path), np.full((4, 4, 3), index, np.uint8))
  with contextlib.redirect_stdout(io.StringIO()):
    source = str(folder / "source")
    prepare.main(["folder", "--source", source, "--name", "five", "--data-dir", f"{folder}/data"])
  return folder / "data"


_pixels_read = []


def _read_all(folder: pathlib.Path) -> None:
  _pixels_read.clear()
  config = DataConfig("five", data_dir=str(folder), eval_split="test", on_bad_image="skip")
  records = GoodRecords(open_dataset(config).train, config)
  _pixels_read.extend(int(records[index]["image"][0, 0, 0]) for index in range(5))


def _read_whole_or_not(folder: pathlib.Path, said: str | None) -> None:
  """A disk that fails is no damaged image, in whose place another one may stand."""
  assert said or sorted(_pixels_read) == [0, 1, 2, 3, 4], f"read {_pixels_read}"


SCENARIOS = {
  "save": Scenario(functools.partial(_with_steps, 1), _save, functools.partial(_saved_or_not, 2)),
  "save in place": Scenario(
    functools.partial(_with_steps, 1), _save_in_place, functools.partial(_saved_or_not, 2)
  ),
  "save that replaces": Scenario(
    functools.partial(_with_steps, 1),
    functools.partial(_save, keep_latest=1),
    functools.partial(_saved_or_not, 1),
  ),
  "save and read back": Scenario(
    functools.partial(_with_steps, 1),
    functools.partial(_save, read_back=True),
    functools.partial(_saved_or_not, 2),
  ),
  "restore": Scenario(functools.partial(_with_steps, 2), _restore_the_newest, _read_or_not),
  "new run": Scenario(lambda folder: folder.mkdir(), _start_run, functools.partial(_is_run, False)),
  "resumed run": Scenario(_resumable, _start_run, functools.partial(_is_run, True)),
  "data set": Scenario(
    lambda folder: shutil.copytree(_prepared(), folder), _read_all, _read_whole_or_not
  ),
  "weights file": Scenario(
    functools.partial(_write_file, 1), functools.partial(_write_file, 2), _file_is_old_or_new
  ),
  "weights folder": Scenario(
    functools.partial(_write_folder, 1), functools.partial(_write_folder, 2), _folder_is_old_or_new
  ),
}

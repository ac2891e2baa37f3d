"""python -m train CONFIG [overrides]: trains, or resumes, the run that a config file describes.

A run's folder in the place of CONFIG means that run, by the config that it keeps.
"""

import contextlib
import pathlib
import sys
import tempfile

from pst_jax.errors import run_command

USAGE = """\
usage: python -m train CONFIG [--option value ...]
       python -m train RUN [--option value ...]

Trains the network that a config file describes. The run folder (--run-dir) keeps the resolved
config, checkpoints and metrics; the same command again resumes from the newest checkpoint, and so
does the folder's name in the place of the config.

  python -m train configs/classification/digits.py               a first network, in minutes
  python -m train configs/classification/digits.py --help        every option and its value
  python -m train digits --run-dir runs/mine --optim.learning-rate 0.05
  python -m train runs/mine                                      goes on by its own config
  python -m train runs/mine --epochs 30                          longer (schedule constant or step)

SIGTERM, Ctrl-C (twice: at once), a closed terminal or output save and stop; the same command goes
on. Exit codes: 0 the end of the run, 128 + the signal where one stopped it (SIGTERM: 143), 2 a
mistake in the config or the data, 1 anything else.

configs:
{configs}
"""


def main(arguments: list[str]) -> None:
  if not arguments or arguments[0] in ("-h", "--help"):
    from train.config import config_files

    lines = [f"  {file.as_posix():52s} {_title(file)}" for file in config_files()]
    print(USAGE.format(configs="\n".join(lines)))
    return
  from pst_jax.files import place
  from train.options import parse_run
  from train.processes.join import init_processes
  from train.run.folder import load
  from train.run.timing import Times

  config, processes = parse_run(load(arguments[0]), arguments[0], arguments[1:])
  times = Times()
  run_dir = place(config.run_dir, "run_dir", ("gs",))
  with _on_disk(run_dir) as stacks, init_processes(processes, stacks, times) as should_stop:
    from train.loop import train

    train(config, should_stop, times)


@contextlib.contextmanager
def _on_disk(run_dir):
  """The run folder; in the place of one in a bucket, a folder for the stacks of a hanging run."""
  from pst_jax.buckets import is_url

  if not is_url(run_dir):
    yield run_dir
    return
  folder = pathlib.Path(tempfile.mkdtemp(prefix="pst_jax-stacks-"))
  try:
    yield folder
  finally:
    with contextlib.suppress(OSError):  # it holds stacks
      folder.rmdir()


def _title(file: pathlib.Path) -> str:
  """The first line of a config's description."""
  line = file.read_text().partition("\n")[0]
  return line.removeprefix('"""') if line.startswith('"""') else ""


if __name__ == "__main__":
  run_command(main, sys.argv[1:])

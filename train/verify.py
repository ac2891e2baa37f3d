"""python -m train.verify RUN: reads every checkpoint of a run whole, and says which are good."""

import os
import sys

from pst_jax.errors import UserError, run_command
from train.options import make_parser

DESCRIPTION = """\
Reads every checkpoint of a run whole, compares each array with its checksum, and says which are
good. Nothing is changed, and the run may go on meanwhile. It computes on the CPU, so that it takes
no accelerator from the run.

  python -m train.verify runs/digits

Exit codes: 0 all are good, 2 one of them is not, or there is none.
"""


def main(arguments: list[str]) -> None:
  parser = make_parser("train.verify", description=DESCRIPTION)
  parser.add_argument("run", metavar="RUN", help="the folder of the run")
  options = parser.parse_args(arguments)
  # Before JAX looks for devices: those of an accelerator may be the run's.
  os.environ["JAX_PLATFORMS"] = "cpu"
  verify(options.run)


def verify(run: str) -> None:
  """Prints a line for each checkpoint of the run.

  Raises:
    UserError: one of them is not good; there is none; it is no run.
  """
  # Late, so that --help answers at once.
  from pst_jax.checkpoints import layout
  from pst_jax.checkpoints.verify import verify_all
  from train.run.folder import RunFolder

  folder = RunFolder(run)
  identity = folder.identity(folder.read_config())
  verdicts = []
  for verdict in verify_all(layout.absolute(folder.checkpoints), identity):
    verdicts.append(verdict)
    print(
      f"step {verdict.step}: {verdict.problem}"
      if verdict.problem
      else f"step {verdict.step}: good, {verdict.arrays} arrays of {verdict.size / 1e6:,.1f} MB",
      flush=True,
    )
  wrong = [str(verdict.step) for verdict in verdicts if verdict.problem]
  if not verdicts:
    raise UserError(f"{folder.checkpoints}: there is no checkpoint yet: train the run first")
  if wrong:
    others = "a run goes on from the newest of the others"
    raise UserError(
      f"{len(wrong)} of {len(verdicts)} checkpoints in {folder.checkpoints} cannot be used (of step"
      f" {', '.join(wrong)}): "
      + (others if len(wrong) < len(verdicts) else "restore the folder from a copy")
    )


if __name__ == "__main__":
  run_command(main, sys.argv[1:])

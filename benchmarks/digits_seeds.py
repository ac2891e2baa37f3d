"""Digits accuracy over seeds, without PST, with PST coarse and fine: the recipe of the digits.

    python -m benchmarks.digits_seeds
    python -m benchmarks.digits_seeds --seeds 1    # is all in order?

Every run is trained from nothing in a temporary folder; the fine branch is evaluated from the same
parameters as the coarse one. Prints the mean and the range over the seeds of the top-1 accuracy.
"""

import dataclasses
import statistics
import tempfile

from benchmarks.common import make_parser
from train.config import load_file
from train.loop import train

NETWORKS = {"resnet18": (0,), "resnet18_pst": (0, 1, 4, 8)}


def main() -> None:
  parser = make_parser(__doc__)
  parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
  options = parser.parse_args()
  base = load_file("configs/classification/digits.py")
  accuracy = {(name, top_k): [] for name, ks in NETWORKS.items() for top_k in ks}
  for seed in range(options.seeds):
    for name, ks in NETWORKS.items():
      with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(
          base,
          run_dir=folder,
          seed=seed,
          eval_top_k=ks,
          eval_every_epochs=base.epochs,
          checkpoint=dataclasses.replace(base.checkpoint, every_epochs=base.epochs),
          model=dataclasses.replace(base.model, name=name),
        )
        for top_k, values in zip(ks, train(config).metrics.values(), strict=True):
          accuracy[name, top_k].append(100 * values["top1"])
  print(f"top-1 in %, {options.seeds} seeds, {base.epochs:g} epochs")
  for (name, top_k), values in accuracy.items():
    print(
      f"{name:13s} top_k={top_k}  mean {statistics.mean(values):6.2f}  "
      f"min {min(values):6.2f}  max {max(values):6.2f}  "
      f"all {' '.join(f'{v:.2f}' for v in values)}"
    )


if __name__ == "__main__":
  main()

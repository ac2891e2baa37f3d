"""Writes the table that `pst_jax models` prints from; run it when a network comes or changes.

python tools/model_costs.py
"""

import json
import pathlib
import sys

REPOSITORY = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # this clone, whatever else is installed

import pst_jax  # noqa: E402
from pst_jax.commands.models import TABLE  # noqa: E402

# As ImageNet and COCO are usually counted: (side of the image, classes).
USUAL = {"classification": (224, 1000), "detection": (640, 80)}


def costs(name: str) -> dict[str, int]:
  """What the table says of a network."""
  image_size, num_classes = USUAL[pst_jax.models.task_of(name)]
  model = pst_jax.create_model(name, num_classes=num_classes)
  summary = pst_jax.summarize(model, image_size, depth=0)
  return {
    "parameters": summary.parameters,
    "flops": summary.flops,
    "image_size": image_size,
    "num_classes": num_classes,
  }


def main() -> None:
  table = {name: costs(name) for name in pst_jax.list_models()}
  path = REPOSITORY / "pst_jax" / TABLE
  rows = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items()]
  path.write_text("{\n" + ",\n".join(rows) + "\n}\n")
  print(f"{path}: {len(table)} networks")


if __name__ == "__main__":
  main()

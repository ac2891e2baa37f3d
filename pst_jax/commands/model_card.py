"""README.md of a shared repository: what weights and their run say of themselves, and no more."""

import json

from pst_jax.commands.models import NOTES
from pst_jax.convert.io import Weights
from pst_jax.convert.metadata import described
from pst_jax.convert.state_dict import COUNTER
from pst_jax.inference.tasks import PREDICTORS
from pst_jax.models import task_of
from pst_jax.wording import listed

PIPELINES = {"classification": "image-classification", "detection": "object-detection"}
"""The hub's names of the tasks."""

_USE = """\
```
pst_jax predict hf://{repo} photos/
```

```python
import pst_jax

model, variables, preprocessing = pst_jax.from_pretrained("hf://{repo}")
```"""


def model_card(repo: str, weights: Weights, config: dict, license: str | None) -> str:
  """The text of the card, with the hub's header.

  Args:
    repo: where it will lie, `owner/name`.
    weights: what is shared.
    config: as `hub_config.make` made it.
    license: that the user named; None: the card names none.
  """
  facts = weights.metadata
  header = {
    "library_name": "pst_jax",
    "pipeline_tag": PIPELINES[task_of(facts.model)],
    "tags": ["pst_jax", "jax", "flax", "pyramid-sparse-transformer", facts.model],
    **({"license": license} if license else {}),
  }
  # A value of JSON is one of YAML.
  lines = [f"{name}: {json.dumps(value)}" for name, value in header.items()]
  parts = [
    "\n".join(["---", *lines, "---"]),
    f"# {repo.partition('/')[2]}",
    _table("", "", _facts(weights, config)),
    f"## Results\n\n{_results(config)}",
    f"## Use\n\nWith pst_jax and huggingface_hub installed:\n\n{_USE.format(repo=repo)}",
    "## Limits\n\nMade with pst_jax, an implementation of the Pyramid Sparse Transformer "
    "([arXiv 2505.12772](https://arxiv.org/abs/2505.12772)) in JAX. The accuracies of the paper "
    "are not reproduced with it, and nothing here says that these weights reach them.",
  ]
  return "\n\n".join(part for part in parts if part) + "\n"


def _facts(weights: Weights, config: dict) -> list[tuple[str, str]]:
  facts, options = weights.metadata, config["training_config"]
  arrays = weights.state_dict()
  own = ("running_mean", "running_var", COUNTER)
  parameters = sum(a.size for name, a in arrays.items() if not name.endswith(own))
  said = facts.preprocessing
  images = PREDICTORS[task_of(facts.model)].preprocessing_of(facts)
  rows = [
    ("Network", f"{facts.model}: {NOTES[facts.model]}"),
    ("Weights", f"{described(facts)}; {parameters:,} parameters, float32"),
    ("Trained with", f"top_k {facts.top_k}"),
    ("Images", ("" if said else "not stated; taken: ") + _pairs(images)),
    ("Classes", listed(facts.class_names, 10) if facts.class_names else "no names"),
  ]
  if options:
    length = {"epochs": "epochs", "batch_size": "images a step", "seed": "seed"}
    said = [f"{text} {options[name]}" for name, text in length.items() if name in options]
    rows.insert(2, ("Training", f"{options.get('data.dataset')}; {', '.join(said)}"))
  rows.append(("Versions", _pairs(facts.versions)))
  return rows


def _results(config: dict) -> str:
  metrics, options = config["metrics"], config["training_config"]
  if not metrics:
    return "No evaluation of these weights is on record."
  split = f"{options.get('data.eval_split')} of {options.get('data.dataset')}"
  ends = ".top_k"
  evals = [
    f"`{name.removeprefix('evals.').removesuffix(ends)}`: top_k {value}"
    for name, value in options.items()
    if name.startswith("evals.") and name.endswith(ends)
  ]
  rows = [(f"`{name.removeprefix('eval/')}`", f"{value}") for name, value in metrics.items()]
  return (
    f"On the split {split}, as the run's own record of step {config['step']} says"
    + (f" ({', '.join(evals)})" if evals else "")
    + f":\n\n{_table('measured', 'value', rows)}"
  )


def _pairs(values: dict) -> str:
  return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> str:
  lines = [(left, right), ("---", "---"), *rows]
  return "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in lines)


def _cell(text: str) -> str:
  """One line that no text of a file can end, or turn into markup of its own."""
  shown = "".join(c if c.isprintable() else " " for c in text)
  return shown.replace("|", "\\|").replace("<", "&lt;")

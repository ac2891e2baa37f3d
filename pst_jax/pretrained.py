"""A trained network from anywhere, in one call."""

import os

from pst_jax import ops
from pst_jax.checkpoints.layout import Which
from pst_jax.convert import io
from pst_jax.inference.tasks import PREDICTORS
from pst_jax.models import Network, task_of


def from_pretrained(
  path_or_repo: str | os.PathLike,
  *,
  model: str | None = None,
  step: Which | None = None,
  ema: bool | None = None,
  top_k: int | None = None,
  selection: str | ops.Selection | None = None,
  **options,
) -> tuple[Network, dict, dict]:
  """A network, its trained variables, and how images are prepared for it.

  >>> model, variables, preprocessing = pst_jax.from_pretrained("hf://owner/name")
  >>> outputs = model.apply(variables, images)

  Args:
    path_or_repo: a run folder, a .pt, .pth or .safetensors of anybody, a folder that `convert`
      wrote, or a repository of the hub: hf://owner/name, or hf://owner/name@revision.
    model: the network, where the source does not say it.
    step: of a run folder: a step, "latest" or "best"; None: the latest.
    ema: take the moving average (True), the parameters (False), or the average if there is one.
    top_k: coarse tokens of the fine branch; None: as many as it was trained with.
    selection: the rule that picks them; None: the one that it was trained with.
    **options: further options of `create_model`, such as dtype=jnp.bfloat16.

  Returns:
    The network, for images [batch, height, width, 3] in float32 that were cropped (a detector's:
    letterboxed) and normalised; its variables {"params", "batch_stats"} of NumPy arrays in float32;
    and {"image_size", "mean", "std"}, of a classifier "eval_crop" too: the pixels of a side,
    (pixels / 255 - mean) / std, and image_size as a share of the short side before the crop. What
    the source does not say is as `pst_jax predict` takes it: ImageNet's, of a detector COCO's.

  Raises:
    MissingFileError: there is nothing at a path.
    UserError: as `convert.read_weights`, and for the hub: no such repository or revision, no right
      to see it, no network.
  """
  weights = io.read(path_or_repo, model=model, step=step, ema=ema)
  facts = weights.metadata
  predictor = PREDICTORS[task_of(facts.model)]
  top_k = facts.top_k if top_k is None else top_k
  selection = predictor.recorded_rule(facts, top_k) if selection is None else selection
  network = weights.network(top_k=top_k, selection=selection, **options)
  return network, weights.variables, dict(predictor.preprocessing_of(facts))

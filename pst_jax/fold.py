"""BatchNorm folded into the convolutions, for inference."""

from collections.abc import Mapping

from pst_jax.errors import UserError
from pst_jax.layers import Layer


def fold_batch_norm(module: Layer, variables: Mapping) -> tuple[Layer, dict]:
  """The same function with fewer operations: each BatchNorm joins the convolution before it.

  In evaluation BatchNorm is x * s + b with s = scale / sqrt(var + epsilon) and b = bias - mean * s
  (arXiv 1502.03167, section 3.1), and a convolution times s is the convolution with kernel * s.

  >>> model, variables = pst_jax.fold_batch_norm(model, variables)
  >>> logits = model.apply(variables, images)

  Args:
    module: a network, or any other module of this library.
    variables: {"params", "batch_stats"} of NumPy or JAX arrays, which stay what they are.

  Returns:
    The module with `folded=True` and its variables {"params"}: they fit that module alone, so keep
    the originals for training and for `pst_jax.convert`.

  Raises:
    UserError: the module is folded already.
  """
  if module.folded:
    raise UserError(
      f"this {type(module).__name__} is folded already: use its variables as they are"
    )
  params = _fold(variables["params"], variables.get("batch_stats", {}), module.epsilon)
  return module.clone(folded=True), {"params": params}


def _fold(params, statistics, epsilon):
  if not isinstance(params, Mapping):
    return params
  if "bn" not in params:
    return {name: _fold(child, statistics.get(name, {}), epsilon) for name, child in params.items()}
  norm, statistics = params["bn"], statistics["bn"]
  factor = norm["scale"] * (statistics["var"] + epsilon) ** -0.5
  kernel = params["conv"]["kernel"] * factor
  return {"conv": {"kernel": kernel}, "bias": norm["bias"] - statistics["mean"] * factor}

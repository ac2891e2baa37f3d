"""XLA options that were measured to help these networks, for `jax.jit(compiler_options=...)`."""

import functools

import jax

# Not here, although they save a tenth with jaxlib 0.12: xla_cpu_use_onednn together with
# xla_cpu_experimental_onednn_custom_call, which give wrong gradients (tests/layers/test_pst.py).
_MEASURED = {
  "cpu": {
    # Leaves YNNPACK the reductions (BatchNorm's sums), where it is fast, and takes convolutions and
    # products from it, back to Eigen (jaxlib 0.10.2).
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
  }
}


@functools.cache
def compiler_options(platform: str | None = None) -> dict[str, str]:
  """Options for a platform (None: the default backend's); {} where none is known to help.

  Options that the installed jaxlib does not know are left out.
  """
  platform = platform or jax.default_backend()
  return known_options(platform, _MEASURED.get(platform, {}))


def known_options(platform: str, options: dict) -> dict:
  """Those that the installed jaxlib knows: another is an error when it comes to compile."""
  return {name: value for name, value in options.items() if _is_known(platform, name, value)}


def _is_known(platform, name, value):
  probe = jax.jit(lambda x: x, compiler_options={name: value})
  try:
    with jax.default_device(jax.local_devices(backend=platform)[0]):
      probe.lower(0).compile()
  except Exception:
    return False
  return True

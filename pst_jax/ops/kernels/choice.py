"""The form of coarse attention that `auto` takes, by platform and size, as measured."""

# Of each platform, from the smallest maps to the largest: the scores of a head (queries x tokens)
# up to which a form is taken, and the form. `python -m benchmarks.attention --sizes` and
# `python -m benchmarks.tpu_attention` have the figures. GPUs are unmeasured: einsum.
FORMS = {
  "cpu": ((2**15, "einsum"), (float("inf"), "blocked")),
  "tpu": ((2**18, "einsum"), (float("inf"), "pallas")),
}
# Coarse tokens that the kernels hold in VMEM, at most; beyond, blocks stand in.
MOST_TOKENS = 8192
LIMITS = {"pallas": (MOST_TOKENS, "blocked")}


def choose(platform: str, queries: int, tokens: int) -> str:
  """The name of an implementation for one of the platforms in `FORMS`."""
  form = next(form for most, form in FORMS[platform] if queries * tokens <= most)
  most, instead = LIMITS.get(form, (tokens, form))
  return form if tokens <= most else instead

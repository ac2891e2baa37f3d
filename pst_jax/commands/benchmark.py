"""pst_jax benchmark: what the fine branch costs, in images a second and in memory."""

import argparse

DESCRIPTION = """\
Measures inference of a network on this machine, with each top_k and each rule of selection in turn,
round after round, so that all see the same machine. Weights are random: no file is needed.

  pst_jax benchmark resnet18_pst
  pst_jax benchmark yolo11n-pst --top-k 0 8 --selection top_k per_query --batch-size 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the options of the command."""
  add = parser.add_argument
  add("model", metavar="MODEL", help="the network, one of `pst_jax models`")
  add(
    "--top-k",
    type=int,
    nargs="+",
    default=[0, 1, 4, 8, 16],
    metavar="K",
    help="coarse tokens that the fine branch opens; 0: it is off (default: 0 1 4 8 16)",
  )
  add(
    "--selection",
    nargs="+",
    default=["top_k"],
    metavar="RULE",
    help="rules that pick them: names of pst_jax.ops.SELECTIONS, or module:function",
  )
  add("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)")
  add("--image-size", type=int, metavar="PIXELS", help="default: 224; detectors: 640")
  add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
  add("--rounds", type=int, default=10, metavar="N", help="the median is told (default: 10)")
  add("--json", metavar="FILE", help="also write the figures as JSON")
  add("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace) -> None:
  """Measures as the options of `add_arguments` say."""
  from pst_jax.errors import UserError
  from pst_jax.files import check_free, write_output
  from pst_jax.limits import IMAGE_SIZE

  for name in ("batch_size", "rounds"):
    if getattr(options, name) < 1:
      option = name.replace("_", "-")
      raise UserError(f"--{option} is {getattr(options, name)}, but it must be 1 or more")
  size = options.image_size
  if size is not None and not IMAGE_SIZE.allows(size):
    raise UserError(f"--image-size is {size}, but it must be {IMAGE_SIZE.text}, in pixels")
  if options.json:
    check_free(options.json, force=options.force)

  import json

  import jax

  from pst_jax.commands.models import stored_costs
  from pst_jax.inference.cost import Variant, measure
  from pst_jax.models import check_model_name

  check_model_name(options.model)
  size = size or stored_costs()[options.model]["image_size"]
  variants = dict.fromkeys(
    Variant(k, rule)
    for k in options.top_k
    for rule in (options.selection if k else options.selection[:1])
  )
  costs = measure(
    options.model,
    list(variants),
    batch_size=options.batch_size,
    image_size=size,
    dtype=options.dtype,
    rounds=options.rounds,
  )
  device = jax.devices()[0].device_kind
  images = f"{options.batch_size} images of {size} x {size}"
  print(f"{options.model}: batches of {images} in {options.dtype} on {device}")
  width = max(len("selection"), *(len(rule) for rule in options.selection))
  print(f"top_k  {'selection':{width}}  images/s  ms/image  ratio  memory MB")
  for (top_k, selection), seconds, memory in costs:
    print(
      f"{top_k:5}  {selection if top_k else '-':{width}}  {1 / seconds:8.1f}  "
      f"{1e3 * seconds:8.2f}  {seconds / costs[0].seconds:5.3f}  {memory / 1e6:9.1f}"
    )
  if options.json:
    entries = [
      cost.variant._asdict() | {"seconds_per_image": cost.seconds, "memory_bytes": cost.memory}
      for cost in costs
    ]
    facts = {"model": options.model, "device": device, "batch_size": options.batch_size}
    text = json.dumps(facts | {"dtype": options.dtype, "variants": entries}, indent=2) + "\n"
    write_output(options.json, text.encode(), force=options.force)

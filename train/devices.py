"""Which devices a run uses, and whether an accelerator lies idle beside them."""

import collections
import pathlib

import jax

# What it is: (files by which Linux shows it, extra of jax that makes it usable)
_ACCELERATORS = {
  "an NVIDIA GPU": (("dev/nvidia0", "dev/nvidiactl", "proc/driver/nvidia/version"), "cuda13"),
  "a TPU": (("dev/accel0", "dev/vfio/0"), "tpu"),
}


def lines() -> list[str]:
  """What a run says of its devices when it starts."""
  advice = hint()
  return [f"devices: {describe()}", *([advice] if advice else [])]


def describe() -> str:
  """The devices of all processes in a line, such as `8 x NVIDIA H100 in 2 processes`."""
  counts = collections.Counter(device.device_kind for device in jax.devices())
  parts = [f"{count} x {kind}" for kind, count in counts.items()]
  if jax.default_backend() == "cpu":
    count = len(jax.devices())
    parts = ["cpu" if count == jax.process_count() else f"cpu ({count} fake devices)"]
  processes = jax.process_count()
  return ", ".join(parts) + (f" in {processes} processes" if processes > 1 else "")


def hint(root: str | pathlib.Path = "/") -> str | None:
  """What to install, where JAX computes on the CPU beside an accelerator; None: nothing to say.

  Nothing is said either where the user chose the CPU (`JAX_PLATFORMS=cpu`). The system shows its
  devices below `root`.
  """
  if jax.default_backend() != "cpu" or jax.config.jax_platforms == "cpu":
    return None
  for name, (files, extra) in _ACCELERATORS.items():
    if any((pathlib.Path(root) / file).exists() for file in files):
      return (
        f"this machine has {name}, but JAX computes on the CPU: pip install 'jax[{extra}]', and "
        "give the same command again"
      )
  return None

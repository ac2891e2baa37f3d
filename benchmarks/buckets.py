"""How long saves and restores take against a store on this machine, and what a failing one costs.

  python benchmarks/buckets.py --megabytes 64 --tries 5

The same state is saved to and restored from a folder of the disk and a folder of an emulated store
behind a proxy, which lets every request pass, waits, or answers a share of them with 503. Seconds
are medians; an emulator on loopback says how many requests a save needs and what retries cost, and
nothing of the throughput of a real bucket.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time

sys.path[:0] = ["", "tests"]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--megabytes", type=int, default=64, help="of arrays in float32")
  parser.add_argument("--tries", type=int, default=5)
  options = parser.parse_args()
  from support.store import BUCKET, running_store

  with running_store() as store, tempfile.TemporaryDirectory() as disk:
    os.environ.update(store.environment())
    rng = random.Random(0)
    ways = {
      "disk": (disk, lambda method, path: None),
      "store": (f"gs://{BUCKET}/plain", lambda method, path: None),
      "store, 20 ms a request": (f"gs://{BUCKET}/slow", lambda method, path: 0.02),
      "store, 503 to 5 %": (
        f"gs://{BUCKET}/failing",
        lambda method, path: 503 if rng.random() < 0.05 else None,
      ),
    }
    print(f"{'':24s}{'save s':>9s}{'restore s':>11s}{'requests':>10s}{'answered 503':>14s}")
    for name, (folder, rule) in ways.items():
      failed = []

      def counted(method, path, rule=rule, failed=failed):
        answer = rule(method, path)
        failed.extend([path] if answer == 503 else [])
        return answer

      store.rule = counted
      before = len(store.requests)
      save, restore = _measure(folder, options.megabytes, options.tries)
      requests = (len(store.requests) - before) / options.tries
      print(f"{name:24s}{save:9.2f}{restore:11.2f}{requests:10.0f}{len(failed):14d}", flush=True)


def _measure(folder: str, megabytes: int, tries: int) -> tuple[float, float]:
  """Median seconds of a save and of a restore with its checksums."""
  import jax
  import jax.numpy as jnp

  from train.run.checkpoints import Checkpoints

  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  arrays = 8
  shape = (megabytes * 2**20 // 4 // arrays,)
  abstract = {
    str(i): jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for i in range(arrays)
  }
  saves, restores = [], []
  with Checkpoints(folder) as checkpoints:
    for step in range(1, tries + 1):
      keys = jax.random.split(jax.random.key(step), arrays)
      state = {
        str(i): jax.device_put(jax.random.normal(keys[i], shape), place) for i in range(arrays)
      }
      jax.block_until_ready(state)
      began = time.monotonic()
      checkpoints.save(step, state, extra={})
      checkpoints.wait()
      saves.append(time.monotonic() - began)
      began = time.monotonic()
      assert checkpoints.restore(abstract).step == step
      restores.append(time.monotonic() - began)
  return statistics.median(saves), statistics.median(restores)


if __name__ == "__main__":
  main()

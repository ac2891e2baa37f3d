"""`shallow-pst`, a detector of few layers for tests that are not about the network.

It has what the trainer notices of one: maps at three strides, two PST modules, the Detect head. Its
steps compile in a third of the time.

`python shallow_detector.py ARGUMENTS` is `python -m train ARGUMENTS`, and knows it.
"""

import pathlib
import sys

NAME = "shallow-pst"


def install(set_item=dict.__setitem__) -> None:
  """Makes it known by its name; `set_item` may be that of a MonkeyPatch."""
  from pst_jax.layers import PST, ConvNorm
  from pst_jax.models import registry
  from pst_jax.models.detector import Detector
  from pst_jax.models.heads.detect import Detect

  class ShallowDetector(Detector):
    def setup(self):
      self.convs = [self.make(ConvNorm, 16, 3, 2) for _ in range(5)]
      self.fuse4, self.fuse3 = self.make(PST, 64), self.make(PST, 64)
      self.head = self.make(Detect, self.num_classes)

    def _fused(self, images, train, positions):
      x, maps = images.astype(self.dtype), []
      for conv in self.convs:
        x = conv(x, train)
        maps.append(x)
      *_, p3, p4, p5 = maps
      out4 = self.fuse4(p4, p5, train, positions)
      return self.fuse3(p3, out4, train, positions), out4, p5

  set_item(registry._NETWORKS, NAME, (ShallowDetector, {"family": "shallow"}))


if __name__ == "__main__":
  sys.path[0] = str(pathlib.Path.cwd())
  from pst_jax.errors import run_command
  from train.__main__ import main

  install()
  run_command(main, sys.argv[1:])

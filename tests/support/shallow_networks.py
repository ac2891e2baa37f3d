"""Networks of few layers, for tests that are not about them; they compile in a third of the time.

`shallow` and `shallow_pst` are classifiers, ResNets of two stages of one block; `shallow-pst` is a
detector, which has what the trainer notices of one: maps at three strides, two PST modules, the
Detect head.

`python shallow_networks.py MODULE ARGUMENTS` is `python -m MODULE ARGUMENTS`, and knows them.
"""

import pathlib
import runpy
import sys

CLASSIFIER, PST_CLASSIFIER, DETECTOR = "shallow", "shallow_pst", "shallow-pst"


def install(set_item=dict.__setitem__) -> None:
  """Makes them known by their names; `set_item` may be that of a MonkeyPatch."""
  from pst_jax.convert import names
  from pst_jax.layers import PST, ConvNorm
  from pst_jax.models import registry
  from pst_jax.models.detector import Detector
  from pst_jax.models.heads.detect import Detect
  from pst_jax.models.resnet_classifier import ResNetClassifier

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

  resnet = {"stage_sizes": (1, 1), "block": "basic", "family": "torchvision"}
  for name, network in (
    (CLASSIFIER, (ResNetClassifier, resnet | {"neck_features": None})),
    (PST_CLASSIFIER, (ResNetClassifier, resnet | {"neck_features": 256})),
    (DETECTOR, (ShallowDetector, {"family": "shallow"})),
  ):
    set_item(registry._NETWORKS, name, network)
  layers = (r"^convs_(\d)/", r"model/\1/"), ("^fuse4/", "model/5/"), ("^fuse3/", "model/6/")
  layout = *names._COMMON, *layers, ("^head/", "model/7/"), *names._DETECT, *names._NUMBERED_UNITS
  set_item(names.LAYOUTS, "shallow", layout)


if __name__ == "__main__":
  sys.path[0] = str(pathlib.Path.cwd())
  install()
  del sys.argv[0]
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

"""The authors' recipe for COCO, here for yolo11n-pst; the other detectors and controls reuse it.

Command    python -m train configs/detection/coco_yolo11n_pst.py
Data       coco2017, prepared by `python -m train.prepare coco --manual-dir DIR`
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   40.3 % mAP50-95 on val2017 with PST, 39.4 % of YOLO11n without: the README of the
           authors' repository inlmouse/P2HCT
Reproduced no; no COCO run has been done with this code

Trained from nothing with the fine branch off (top_k=0), which leaves the gate without a gradient:
it is frozen, so that weight decay does not move it. The weight decay is 5e-4 for batches of 64.
The last ten epochs are without mosaic. Our own choice: bfloat16 instead of float16 with a scaled
loss, one normaliser for the whole batch instead of one for each device, and the best checkpoint
by mAP50-95 alone (the authors mix in a tenth of AP50).
"""

from train.config import EvalConfig, ModelConfig, replace
from train.tasks.detection.config import RECIPE, Config, DataConfig

config = Config(
  run_dir="runs/coco_yolo11n_pst",
  epochs=600,
  batch_size=128,
  eval_batch_size=64,
  eval_every_epochs=5,
  evals={"coarse": EvalConfig(top_k=0), "fine": EvalConfig(top_k=8)},
  ema_decay=0.9999,
  ema_ramp=2000.0,
  model=ModelConfig(name="yolo11n-pst", dtype="bfloat16", batch_norm_group_size=16),
  data=DataConfig(dataset="coco2017", threads=16, workers=8),
  optim=replace(RECIPE, frozen=("*/gate*",)),
)

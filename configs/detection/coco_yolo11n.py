"""yolo11n on COCO, a control without PST.

Command    python -m train configs/detection/coco_yolo11n.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   39.4 % mAP50-95 on val2017 in the README of inlmouse/P2HCT, by a recipe of its own
Reproduced no; no COCO run has been done with this code

The control of coco_yolo11n_pst, by its recipe. What PST's network gains over
it is not PST's alone, since the backbone differs too.
"""

from train.config import EvalConfig, load_beside, replace

recipe = load_beside(__file__, "coco_yolo11n_pst.py")
config = replace(
  recipe,
  run_dir="runs/coco_yolo11n",
  model=replace(recipe.model, name="yolo11n"),
  evals={"all": EvalConfig(top_k=0)},
  optim=replace(recipe.optim, frozen=()),
)

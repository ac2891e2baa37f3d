"""yolo11m on COCO, a control without PST.

Command    python -m train configs/detection/coco_yolo11m.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   51.5 % mAP50-95 on val2017 in the README of inlmouse/P2HCT, by a recipe of its own
Reproduced no; no COCO run has been done with this code

The control of coco_yolo11m_pst, by its recipe; coco_yolo11n says what it controls for.
"""

from train.config import EvalConfig, load_beside, replace

recipe = load_beside(__file__, "coco_yolo11m_pst.py")
config = replace(
  recipe,
  run_dir="runs/coco_yolo11m",
  model=replace(recipe.model, name="yolo11m"),
  evals={"all": EvalConfig(top_k=0)},
  optim=replace(recipe.optim, frozen=()),
)

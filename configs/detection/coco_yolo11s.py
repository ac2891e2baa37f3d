"""yolo11s on COCO, a control without PST.

Command    python -m train configs/detection/coco_yolo11s.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   none known for this recipe
Reproduced no; no COCO run has been done with this code

The control of coco_yolo11s_pst, by its recipe; coco_yolo11n says what it controls for.
"""

from train.config import EvalConfig, load_beside, replace

recipe = load_beside(__file__, "coco_yolo11s_pst.py")
config = replace(
  recipe,
  run_dir="runs/coco_yolo11s",
  model=replace(recipe.model, name="yolo11s"),
  evals={"all": EvalConfig(top_k=0)},
  optim=replace(recipe.optim, frozen=()),
)

"""r101-pst on COCO.

Command    python -m train configs/detection/coco_r101_pst.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   50.9 % mAP50-95 on test-dev: the README of inlmouse/P2HCT
Reproduced no; no COCO run has been done with this code

The recipe of coco_yolo11n_pst, with the augmentation of YOLO11s, whose neck it has; nothing is
published of the augmentation of the ResNets.
"""

from train.config import load_beside, replace

recipe = load_beside(__file__, "coco_yolo11n_pst.py")
config = replace(
  recipe,
  run_dir="runs/coco_r101_pst",
  model=replace(recipe.model, name="r101-pst"),
  data=replace(recipe.data, scale=0.9, copy_paste=0.15, mixup=0.05),
)

"""yolo11s-pst on COCO.

Command    python -m train configs/detection/coco_yolo11s_pst.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   the abstract of arXiv 2505.12772 claims 0.5 points over YOLO11s, and no figure
Reproduced no; no COCO run has been done with this code

The recipe of coco_yolo11n_pst, with the stronger augmentation that the authors give YOLO11s.
"""

from train.config import load_beside, replace

recipe = load_beside(__file__, "coco_yolo11n_pst.py")
config = replace(
  recipe,
  run_dir="runs/coco_yolo11s_pst",
  model=replace(recipe.model, name="yolo11s-pst"),
  data=replace(recipe.data, scale=0.9, copy_paste=0.15, mixup=0.05),
)

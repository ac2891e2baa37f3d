"""yolo11m-pst on COCO.

Command    python -m train configs/detection/coco_yolo11m_pst.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   52.1 % mAP50-95 on val2017 with PST, 51.5 % of YOLO11m without: the README of
           inlmouse/P2HCT; the abstract of arXiv 2505.12772 claims 0.4 points
Reproduced no; no COCO run has been done with this code

The recipe of coco_yolo11n_pst, with the stronger augmentation that the authors give YOLO11m.
"""

from train.config import load_beside, replace

recipe = load_beside(__file__, "coco_yolo11n_pst.py")
config = replace(
  recipe,
  run_dir="runs/coco_yolo11m_pst",
  model=replace(recipe.model, name="yolo11m-pst"),
  data=replace(recipe.data, scale=0.9, copy_paste=0.4, mixup=0.15),
)

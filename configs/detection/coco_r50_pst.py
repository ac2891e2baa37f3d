"""r50-pst on COCO.

Command    python -m train configs/detection/coco_r50_pst.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   none known
Reproduced no; no COCO run has been done with this code

The recipe of coco_yolo11n_pst; nothing is published of the augmentation of the ResNets.
"""

from train.config import load_beside, replace

recipe = load_beside(__file__, "coco_yolo11n_pst.py")
config = replace(recipe, run_dir="runs/coco_r50_pst", model=replace(recipe.model, name="r50-pst"))

"""r18-pst on COCO.

Command    python -m train configs/detection/coco_r18_pst.py
Hardware   8 GPUs or TPU chips, 16 images each (train.plan says whether they fit); or fewer
Accuracy   46.3 % mAP50-95 on test-dev: the README of inlmouse/P2HCT
Reproduced no; no COCO run has been done with this code

The paper's "ResNet-18" has bottleneck blocks [2, 2, 2, 2], and YOLO11n's neck. The recipe of
coco_yolo11n_pst; nothing is published of the augmentation of the ResNets.
"""

from train.config import load_beside, replace

recipe = load_beside(__file__, "coco_yolo11n_pst.py")
config = replace(recipe, run_dir="runs/coco_r18_pst", model=replace(recipe.model, name="r18-pst"))

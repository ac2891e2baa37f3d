"""The paper's recipe for r18-cls-pst, which others would call a ResNet-26 with PST.

Command    python -m train configs/classification/imagenet_r18_cls_pst.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   76.3 % top-1 with top_k=8: torchvision's 69.8 % for ResNet-18 and the gain of 6.5 that
           the abstract of arXiv 2505.12772 claims; timm reports 75.3 % for ResNet-26 without PST
Reproduced no; no ImageNet run has been done with this code
"""

from train.config import load_beside, replace

paper = load_beside(__file__, "imagenet_r50_cls_pst.py")

config = replace(
  paper, run_dir="runs/imagenet_r18_cls_pst", model=replace(paper.model, name="r18-cls-pst")
)

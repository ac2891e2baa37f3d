"""The paper's recipe for r101-cls-pst.

Command    python -m train configs/classification/imagenet_r101_cls_pst.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   78.4 % top-1 with top_k=8: torchvision's 77.4 % and the gain of 1.0 that the abstract of
           arXiv 2505.12772 claims
Reproduced no; no ImageNet run has been done with this code
"""

from train.config import load_beside, replace

paper = load_beside(__file__, "imagenet_r50_cls_pst.py")

config = replace(
  paper, run_dir="runs/imagenet_r101_cls_pst", model=replace(paper.model, name="r101-cls-pst")
)

"""Control without PST on the paper's recipe: ResNet-26, the backbone of r18-cls-pst with ReLU.

Command    python -m train configs/imagenet_resnet26.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known for this recipe; 75.3 % top-1 by timm's own (resnet26.bt_in1k)
Reproduced no; no ImageNet run has been done with this code

With PST and the same ReLU: --model.name resnet26_pst --eval-top-k 0 8 --run-dir runs/resnet26_pst
"""

import pathlib
from dataclasses import replace

from train.config import load_file

paper = load_file(pathlib.Path(__file__).with_name("imagenet_r50_cls_pst.py"))

config = replace(
  paper,
  run_dir="runs/imagenet_resnet26",
  eval_top_k=(0,),
  model=replace(paper.model, name="resnet26"),
)

"""Control without PST on the paper's recipe: ResNet-26, the backbone of r18-cls-pst with ReLU.

Command    python -m train configs/classification/imagenet_resnet26.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known for this recipe; 75.3 % top-1 by timm's own (resnet26.bt_in1k)
Reproduced no; no ImageNet run has been done with this code

With PST and the same ReLU: --model.name resnet26_pst --eval-top-k 0 8 --run-dir runs/resnet26_pst
"""

from train.config import load_beside, replace

control = load_beside(__file__, "imagenet_resnet50.py")

config = replace(
  control, run_dir="runs/imagenet_resnet26", model=replace(control.model, name="resnet26")
)

"""Control without PST on the paper's recipe: torchvision's ResNet-101.

Command    python -m train configs/classification/imagenet_resnet101.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known for this recipe; 77.4 % top-1 by torchvision's own, of 90 epochs
Reproduced no; no ImageNet run has been done with this code

With PST and the same ReLU: --model.name resnet101_pst --eval-top-k 0 8 --run-dir runs/resnet101_pst
"""

from train.config import load_beside, replace

control = load_beside(__file__, "imagenet_resnet50.py")

config = replace(
  control, run_dir="runs/imagenet_resnet101", model=replace(control.model, name="resnet101")
)

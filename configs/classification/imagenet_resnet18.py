"""Control without PST on the paper's recipe: torchvision's ResNet-18.

Command    python -m train configs/classification/imagenet_resnet18.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known for this recipe; 69.8 % top-1 by torchvision's own, of 90 epochs
Reproduced no; no ImageNet run has been done with this code

The paper measures r18-cls-pst against this network, whose blocks are others: the fair control is
imagenet_resnet26.py.
"""

from train.config import load_beside, replace

control = load_beside(__file__, "imagenet_resnet50.py")

config = replace(
  control, run_dir="runs/imagenet_resnet18", model=replace(control.model, name="resnet18")
)

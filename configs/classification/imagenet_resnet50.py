"""Control without PST on the paper's recipe: torchvision's ResNet-50.

Command    python -m train configs/classification/imagenet_resnet50.py
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known for this recipe; 76.1 % top-1 by torchvision's own, of 90 epochs
Reproduced no; no ImageNet run has been done with this code

With PST and the same ReLU: --model.name resnet50_pst --eval-top-k 0 8 --run-dir runs/resnet50_pst
"""

from train.config import EvalConfig, load_beside, replace

paper = load_beside(__file__, "imagenet_r50_cls_pst.py")

config = replace(
  paper,
  run_dir="runs/imagenet_resnet50",
  evals={"coarse": EvalConfig(top_k=0)},
  model=replace(paper.model, name="resnet50"),
)

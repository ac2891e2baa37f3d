"""PST on torchvision's ResNet-50: its weights are the backbone that a short run starts from.

Command    python -m train configs/classification/imagenet_finetune.py \
             --init-from resnet50-0676ba61.pth
Weights    https://download.pytorch.org/models/resnet50-0676ba61.pth (IMAGENET1K_V1, 76.1 % top-1)
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known
Reproduced no; no ImageNet run has been done with this code

Everything is trained: neck and head start anew, so the first epoch warms up, and the learning rate
is a tenth of what training from nothing takes. For images of your own, whose classes make the last
layer new: --data.dataset NAME --data.data-dir DIR --data.eval-split test --run-dir runs/NAME.
"""

from train.config import load_beside, replace

short = load_beside(__file__, "imagenet_90_epochs.py")

config = replace(
  short,
  run_dir="runs/imagenet_finetune",
  init_from="resnet50-0676ba61.pth",
  epochs=20,
  label_smoothing=0.1,
  optim=replace(short.optim, learning_rate=0.02, schedule="cosine", warmup_epochs=1),
)

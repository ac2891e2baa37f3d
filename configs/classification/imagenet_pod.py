"""Large batches for pods: the 90 epochs of imagenet_90_epochs.py in 14,000 steps of 8,192 images.

Command    python -m train configs/classification/imagenet_pod.py
Hardware   32 to 256 TPU chips, or as many GPUs
Accuracy   none known with PST; 76.3 % top-1 for plain ResNet-50 (--model.name resnet50
           --eval-top-k 0) by Goyal et al., arXiv 1706.02677, table 1: as good as with 256 images
Reproduced no; no ImageNet run has been done with this code

The learning rate grows with the batch (0.1 for each 256 images) and rises over five epochs: their
rule, which holds up to 8,192 images. For 4,096: --batch-size 4096 --optim.learning-rate 1.6.

BatchNorm over 32 examples, as in theirs. On 32 chips, 256 images each, add --accumulation-steps 8:
micro-batches of 32 move a quarter less through the memory of a v5e (README, planning for TPUs).
"""

from train.config import load_beside, replace

short = load_beside(__file__, "imagenet_90_epochs.py")

config = replace(
  short,
  run_dir="runs/imagenet_pod",
  batch_size=8192,
  eval_batch_size=8192,
  optim=replace(short.optim, learning_rate=3.2, warmup_epochs=5),
)

"""The short, standard recipe for ImageNet: 90 epochs, a learning rate in steps, no RandAugment.

Command    python -m train configs/classification/imagenet_90_epochs.py
           python -m train configs/classification/imagenet_90_epochs.py --model.name resnet50 \
             --eval-top-k 0 --run-dir runs/imagenet_90_epochs_resnet50
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known with PST; 76.4 % top-1 for plain ResNet-50 (the second command) by Goyal et
           al., arXiv 1706.02677, table 1, and 76.1 % by torchvision
Reproduced no; no ImageNet run has been done with this code
"""

from train.config import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
  run_dir="runs/imagenet_90_epochs",
  epochs=90,
  batch_size=256,
  eval_batch_size=512,
  model=ModelConfig(name="resnet50_pst", dtype="bfloat16", batch_norm_group_size=32),
  data=DataConfig(dataset="imagenet2012", crop="random_resized", flip=True, threads=32),
  optim=OptimConfig(
    name="sgd",
    learning_rate=0.1,
    schedule="step",
    step_epochs=(30, 60, 80),
    step_factor=0.1,
    weight_decay=1e-4,
  ),
)

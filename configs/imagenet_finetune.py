"""PST on torchvision's ResNet-50: its weights are the backbone that a short run starts from.

Command    python -m train configs/imagenet_finetune.py --init-from resnet50-0676ba61.pth
Weights    https://download.pytorch.org/models/resnet50-0676ba61.pth (IMAGENET1K_V1, 76.1 % top-1)
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 256
Accuracy   none known
Reproduced no; no ImageNet run has been done with this code

Everything is trained: neck and head start anew, so the first epoch warms up, and the learning rate
is a tenth of what training from nothing takes. For images of your own, whose classes make the last
layer new: --data.dataset NAME --data.data-dir DIR --data.eval-split test --run-dir runs/NAME.
"""

from train.config import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
  run_dir="runs/imagenet_finetune",
  init_from="resnet50-0676ba61.pth",
  epochs=20,
  batch_size=256,
  eval_batch_size=512,
  eval_top_k=(0, 8),
  label_smoothing=0.1,
  model=ModelConfig(name="resnet50_pst", dtype="bfloat16", batch_norm_group_size=32),
  data=DataConfig(dataset="imagenet2012", crop="random_resized", flip=True, threads=32),
  optim=OptimConfig(
    name="sgd",
    learning_rate=0.02,
    schedule="cosine",
    warmup_epochs=1,
    weight_decay=1e-4,
  ),
)

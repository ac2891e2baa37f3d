"""ResNet-50 + PST by the short recipe of "ResNet strikes back": 160 pixels, every class a question.

Command    python -m train configs/classification/imagenet_a3.py
           python -m train.evaluate runs/imagenet_a3 --image-size 224
Hardware   8 GPUs or TPU chips of 16 GB; fewer work too, as long as they divide 2,048
Accuracy   none known with PST; 78.1 % top-1 at 224 pixels for plain ResNet-50 (--model.name
           resnet50 --eval-top-k 0) by Wightman et al., arXiv 2110.00476, table 2, procedure A3
Reproduced no; no ImageNet run has been done with this code

RandAugment's 6 with a deviation of 0.5 are theirs on a scale of 0 to 10: 18 and 1.5 here.
"""

from train.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig

config = Config(
  run_dir="runs/imagenet_a3",
  epochs=100,
  batch_size=2048,
  eval_batch_size=2048,
  evals={"coarse": EvalConfig(top_k=0), "fine": EvalConfig(top_k=8)},
  loss="binary_cross_entropy",
  model=ModelConfig(name="resnet50_pst", dtype="bfloat16", batch_norm_group_size=32),
  data=DataConfig(
    dataset="imagenet2012",
    image_size=160,
    randaugment_layers=2,
    randaugment_magnitude=18,
    randaugment_deviation=1.5,
    mixup=0.1,
    cutmix=1.0,
    eval_crop=0.95,
    threads=32,
  ),
  optim=OptimConfig(
    name="lamb", learning_rate=8e-3, schedule="cosine", warmup_epochs=5, weight_decay=0.02
  ),
)

"""Random images: no data needed, to try any model and to measure the speed of a step.

Command    python -m train configs/classification/synthetic.py --model.name r50-cls-pst \
             --batch-size 32
Hardware   any
Accuracy   chance: there is nothing to learn
Reproduced yes
"""

from train.config import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
  run_dir="runs/synthetic",
  epochs=1,
  batch_size=32,
  eval_batch_size=32,
  log_every=1,
  model=ModelConfig(name="r18-cls-pst"),
  data=DataConfig(
    dataset="synthetic",
    synthetic_examples=256,
    crop="none",
    flip=False,
    eval_crop=1.0,
  ),
  optim=OptimConfig(learning_rate=0.01),
)

"""Fashion-MNIST: a narrow ResNet-18 + PST on 60,000 images of clothes, small enough for two cores.

Command    python -m train.prepare fashion_mnist --source DIR --data-dir data
           python -m train configs/classification/fashion_mnist.py
Data       the four files of Fashion-MNIST; Debian's package dataset-fashion-mnist has them in
           /usr/share/datasets/fashion-mnist
Hardware   any; 2 CPU cores are enough
Accuracy   see docs/study.md
Reproduced yes, by `python -m research.seeds fashion_mnist`

The small stem leaves 28 x 28 pixels as they are: 7 x 7 queries of stage 3 attend to 4 x 4 tokens.
"""

from train.config import CheckpointConfig, Config, DataConfig, EvalConfig, ModelConfig, OptimConfig

config = Config(
  run_dir="runs/fashion_mnist",
  epochs=3,
  batch_size=128,
  eval_batch_size=250,
  eval_every_epochs=3,
  evals={"coarse": EvalConfig(top_k=0), "fine": EvalConfig(top_k=4)},
  label_smoothing=0.1,
  ema_decay=0.99,
  log_every=100,
  model=ModelConfig(name="resnet18_pst", stem="small", width=0.125),
  data=DataConfig(
    dataset="fashion_mnist",
    data_dir="data",
    eval_split="test",
    image_size=28,
    crop="shift",
    max_shift=2,
    flip=True,
    eval_crop=1.0,
    mean=(0.286, 0.286, 0.286),
    std=(0.353, 0.353, 0.353),
    threads=2,
  ),
  optim=OptimConfig(
    name="sgd", learning_rate=0.2, warmup_epochs=0.5, weight_decay=5e-4, schedule="cosine"
  ),
  checkpoint=CheckpointConfig(every_epochs=3),
)

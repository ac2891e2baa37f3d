"""The gate alone, after coarse training: as digits_gate.py, on fashion_mnist_large.py.

Command    python -m train configs/classification/fashion_mnist_gate.py --init-from RUN
Data       as fashion_mnist_large.py
Hardware   any; 2 CPU cores are enough
Accuracy   see docs/study.md
Reproduced yes, by the command
"""

from train.config import load_beside, replace

coarse = load_beside(__file__, "fashion_mnist_large.py")

config = replace(
  coarse,
  run_dir="runs/fashion_mnist_gate",
  init_from="runs/seeds/resnet18_pst-0",
  epochs=1,
  eval_every_epochs=1,
  model=replace(coarse.model, top_k=8),
  optim=replace(coarse.optim, trainable=("*/gate*",), warmup_epochs=0, weight_decay=0),
  checkpoint=replace(coarse.checkpoint, every_epochs=1),
)

"""The gate alone, after the coarse training of digits.py: two leaves of the network learn.

Command    python -m train configs/classification/digits.py
           python -m train configs/classification/digits_gate.py
Hardware   any; 2 CPU cores are enough
Accuracy   none known before; digits.py, whose gate stays at one half, is the comparison
Reproduced no
"""

from train.config import load_beside, replace

coarse = load_beside(__file__, "digits.py")

config = replace(
  coarse,
  run_dir="runs/digits_gate",
  init_from="runs/digits",
  epochs=2,
  model=replace(coarse.model, top_k=8),
  optim=replace(coarse.optim, trainable=("*/gate*",), warmup_epochs=0, weight_decay=0),
)

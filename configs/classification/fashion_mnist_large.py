"""Fashion-MNIST drawn twice as large, so that 49 coarse tokens compete instead of 16.

Command    python -m train configs/classification/fashion_mnist_large.py
           python -m research.seeds fashion_mnist_large --train-split 'train[:6000]'
Data       as fashion_mnist.py; of the test images the first 4,000
Hardware   any; 2 CPU cores take two minutes for a seed of a network
Accuracy   see docs/study.md
Reproduced yes, by the command

Stage 3 has 14 x 14 queries, stage 4 has 7 x 7 coarse tokens.
"""

from train.config import load_beside, replace

small = load_beside(__file__, "fashion_mnist.py")

config = replace(
  small,
  run_dir="runs/fashion_mnist_large",
  epochs=4,
  eval_every_epochs=4,
  data=replace(small.data, image_size=56, max_shift=4, eval_split="test[:4000]"),
  checkpoint=replace(small.checkpoint, every_epochs=4),
)

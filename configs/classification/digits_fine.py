"""The digits with the fine branch on from the start: the gate learns with everything else.

Command    python -m train configs/classification/digits_fine.py
Hardware   any; 2 CPU cores are enough
Accuracy   none known before; digits.py, whose gate stays at one half, is the comparison
Reproduced no
"""

from train.config import load_beside, replace

coarse = load_beside(__file__, "digits.py")

config = replace(coarse, run_dir="runs/digits_fine", model=replace(coarse.model, top_k=8))

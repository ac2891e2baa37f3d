"""Data sets in TFDS form and the Grain pipeline that turns them into batches for the step."""

from train.data.pipeline import eval_batches, train_batches
from train.data.sources import Dataset, open_dataset

__all__ = ["Dataset", "eval_batches", "open_dataset", "train_batches"]

"""Data sets in TFDS form and the Grain pipeline that turns them into batches for the step."""

from train.data.pipeline import eval_batches, train_batches
from train.data.sources import Dataset

__all__ = ["Dataset", "eval_batches", "train_batches"]

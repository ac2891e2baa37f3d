"""Images, however they came, written as data sets that training reads."""

SPLITS = {
  "train": "train",
  "val": "validation",
  "valid": "validation",
  "validation": "validation",
  "test": "test",
}
"""What others call the splits, and what TFDS calls them."""
KEYS = {key: SPLITS[key] for key in ("train", "val", "test")}
"""Likewise, where a format has one name for each."""

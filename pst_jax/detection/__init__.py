"""What a detector's maps mean: boxes, the loss to train them with, and the choice among them.

A detector returns raw maps [batch, height / s, width / s, 64 + classes] for the strides s = 8, 16,
32: four sides of 16 bins, then the logits of the classes. All functions here are pure, have fixed
shapes, and compute in float32 (float64 stays), whatever the type of the maps.
"""

from pst_jax.detection.assignment import Assignment, Targets, assign
from pst_jax.detection.decoding import BINS, STRIDES, decode
from pst_jax.detection.losses import Losses, LossTerms, loss, loss_terms
from pst_jax.detection.suppression import Found, non_max_suppression

__all__ = [
  "BINS",
  "STRIDES",
  "Assignment",
  "Found",
  "LossTerms",
  "Losses",
  "Targets",
  "assign",
  "decode",
  "loss",
  "loss_terms",
  "non_max_suppression",
]

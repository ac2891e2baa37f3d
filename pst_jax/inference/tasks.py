"""Which class uses a network, by its task."""

from pst_jax.convert.io import Weights
from pst_jax.inference.classifier import Classifier
from pst_jax.inference.detector import Detector
from pst_jax.inference.predictor import Predictor
from pst_jax.models import task_of

PREDICTORS: dict[str, type[Predictor]] = {each.task: each for each in (Classifier, Detector)}


def predictor_of(weights: Weights, **options) -> Predictor:
  """`Classifier.from_weights` or `Detector.from_weights`, as the network is one or the other.

  Raises:
    UserError: an option cannot be, or the network cannot take it.
  """
  return PREDICTORS[task_of(weights.metadata.model)].from_weights(weights, **options)

"""The networks: `create_model`, `list_models`."""

from pst_jax.models.classifier import Classifier
from pst_jax.models.registry import check_model_name, create_model, list_models, model_options
from pst_jax.models.resnet import ResNet

__all__ = [
  "Classifier",
  "ResNet",
  "check_model_name",
  "create_model",
  "list_models",
  "model_options",
]

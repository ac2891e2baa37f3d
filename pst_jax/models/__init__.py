"""The networks: `create_model`, `list_models`."""

from pst_jax.models.classifier import ResNetClassifier
from pst_jax.models.network import Network
from pst_jax.models.registry import check_model_name, create_model, list_models, model_options
from pst_jax.models.resnet import ResNet
from pst_jax.models.summary import ModuleCost, Summary, summarize
from pst_jax.models.yolo11 import Yolo11Classifier

__all__ = [
  "ModuleCost",
  "Network",
  "ResNet",
  "ResNetClassifier",
  "Summary",
  "Yolo11Classifier",
  "check_model_name",
  "create_model",
  "list_models",
  "model_options",
  "summarize",
]

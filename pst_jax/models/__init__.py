"""The networks: `create_model`, `list_models`, `task_of`."""

from pst_jax.models.detector import Detector
from pst_jax.models.network import Classifier, Network
from pst_jax.models.registry import (
  check_model_name,
  create_model,
  list_models,
  model_options,
  task_of,
)
from pst_jax.models.resnet import ResNet
from pst_jax.models.resnet_classifier import ResNetClassifier
from pst_jax.models.resnet_detector import ResNetDetector
from pst_jax.models.summary import ModuleCost, Summary, summarize
from pst_jax.models.yolo11_classifier import Yolo11Classifier
from pst_jax.models.yolo11_detector import Yolo11Detector

__all__ = [
  "Classifier",
  "Detector",
  "ModuleCost",
  "Network",
  "ResNet",
  "ResNetClassifier",
  "ResNetDetector",
  "Summary",
  "Yolo11Classifier",
  "Yolo11Detector",
  "check_model_name",
  "create_model",
  "list_models",
  "model_options",
  "summarize",
  "task_of",
]

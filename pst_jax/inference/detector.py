"""A trained detector as a function of plain images: letterboxed uint8 in, boxes out."""

from dataclasses import dataclass
from typing import Annotated

from pst_jax.convert.metadata import Metadata
from pst_jax.detection import Found, decode, non_max_suppression
from pst_jax.detection.decoding import Maps
from pst_jax.inference.predictor import Predictor, require_possible
from pst_jax.letterbox import GREY
from pst_jax.limits import IMAGE_SIZE
from pst_jax.models.detector import COARSEST_STRIDE
from pst_jax.ranges import UP_TO_1, WHOLE_FROM_1

COCO = {"image_size": 640, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""What weights that do not say are taken to expect: as YOLO's detectors of COCO are trained."""


@dataclass(frozen=True, eq=False)
class Detector(Predictor):
  """A detector; its answers are `pst_jax.detection.Found`, in pixels of the letterboxed image.

  `pst_jax.letterbox.map_back` brings them to the picture itself.

  Attributes:
    score_threshold: boxes of a higher score are told.
    iou_threshold: a box that overlaps a better one of its class by more is left out.
    max_detections: places for the boxes of an image.
  """

  task = "detection"

  score_threshold: Annotated[float, UP_TO_1] = 0.25
  iou_threshold: Annotated[float, UP_TO_1] = 0.7
  max_detections: Annotated[int, WHOLE_FROM_1] = 300

  @staticmethod
  def preprocessing_of(metadata: Metadata) -> dict:
    """{"image_size", "mean", "std"} of the weights; what they do not say is as for COCO."""
    facts = COCO | (metadata.preprocessing or {})
    size = facts["image_size"]
    is_possible = IMAGE_SIZE.allows(size) and size % COARSEST_STRIDE == 0
    sizes = f"image_size must be {IMAGE_SIZE.text} and a multiple of {COARSEST_STRIDE}"
    require_possible(facts, is_possible, sizes)
    return facts

  def answers(self, outputs: Maps) -> Found:
    return non_max_suppression(
      *decode(outputs),
      score_threshold=self.score_threshold,
      iou_threshold=self.iou_threshold,
      max_detections=self.max_detections,
    )

  @property
  def token_strides(self) -> tuple[int, ...]:
    return COARSEST_STRIDE, COARSEST_STRIDE // 2

  def in_words(self) -> tuple[str, str]:
    return (
      f"long side resized to {self.preprocessing['image_size']}, centred on grey {GREY}",
      f"boxes (x1, y1, x2, y2), scores above {self.score_threshold}, classes, and which places of "
      f"the {self.max_detections} are taken",
    )

"""A trained classifier as a function of plain images: uint8 in, logits out."""

from jaxtyping import Array, Float

from pst_jax.convert.metadata import Metadata
from pst_jax.inference.predictor import Predictor, require_possible
from pst_jax.limits import EVAL_CROP, IMAGE_SIZE
from pst_jax.models.network import STRIDE

Logits = Float[Array, "batch num_classes"]
IMAGENET = {"eval_crop": 0.875, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""What weights that say nothing of their preprocessing are taken to expect: torchvision's."""
_IMAGE_SIZE = {"imagenet": 224, "small": 32}


class Classifier(Predictor):
  """A classifier; its answers are logits [batch, num_classes]."""

  task = "classification"

  @staticmethod
  def preprocessing_of(metadata: Metadata) -> dict:
    """{"image_size", "eval_crop", "mean", "std"} of the weights, or else ImageNet's."""
    size = _IMAGE_SIZE[metadata.options.get("stem", "imagenet")]
    facts = {"image_size": size, **IMAGENET, **(metadata.preprocessing or {})}
    is_possible = IMAGE_SIZE.allows(facts["image_size"]) and EVAL_CROP.allows(facts["eval_crop"])
    sizes = f"image_size must be {IMAGE_SIZE.text}, eval_crop {EVAL_CROP.text}"
    require_possible(facts, is_possible, sizes)
    return facts

  def answers(self, outputs: Logits) -> Logits:
    return outputs

  @property
  def token_strides(self) -> tuple[int, ...]:
    return (STRIDE[self.network.stem],)

  def in_words(self) -> tuple[str, str]:
    short = round(self.preprocessing["image_size"] / self.preprocessing["eval_crop"])
    return f"short side resized to {short}, then the centre", "logits"

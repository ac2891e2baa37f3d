"""What a network refuses, and the sentence it says then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.every_network import FAMILIES, SMALL, pictures, shapes

import pst_jax


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("resnet17", "'resnet17' is unknown: did you mean resnet1"),
    ("resnet50-pst", "did you mean resnet50_pst"),
    ("r18", "'r18' is unknown: did you mean"),
    ("vit", "choose one of r18-cls-pst"),
    (50, "model 50 is unknown"),
    (["resnet18"], r"model \['resnet18'\] is unknown"),
  ],
)
def test_an_unknown_network_is_refused_with_the_closest_names(name, words):
  with pytest.raises(ValueError, match=words) as error:
    pst_jax.create_model(name)
  assert all(known in str(error.value) for known in pst_jax.list_models())


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unknown_option_is_refused_with_all_options(name):
  with pytest.raises(ValueError, match=r"option 'topk' .* options are .*top_k") as error:
    pst_jax.create_model(name, topk=8)
  for option in ("dtype", "group_size", "dropout", "stem", "width", "remat"):
    assert option in str(error.value)


@pytest.mark.parametrize(
  ("option", "value"),
  [
    ("num_classes", 0),
    ("num_classes", 10.0),
    ("top_k", -1),
    ("top_k", 8.0),
    ("top_k", True),
    ("dtype", "bfloat"),
    ("dtype", jnp.int32),
    ("dtype", None),
    ("group_size", 0),
    ("group_size", "32"),
    ("dropout", 1.0),
    ("dropout", "0.1"),
    ("stem", "tiny"),
    ("width", 0),
    ("width", float("inf")),
    ("width", True),
    ("remat", "yes"),
    ("remat_policy", "everything"),
    ("folded", 1),
    ("selection", "softmax"),
    ("selection", "no_such_module:rule"),
    ("selection", "pst_jax.ops:no_such_rule"),
    ("selection", "pst_jax.ops:SELECTIONS"),
    ("selection", ["top_k"]),
    ("coarse_implementation", "flash"),
    ("coarse_implementation", ["einsum"]),
    ("epsilon", 0.0),
    ("epsilon", "1e-5"),
    ("momentum", 1.0),
    ("momentum", None),
  ],
)
def test_a_value_that_cannot_be_is_refused_with_what_is_expected(option, value):
  with pytest.raises(ValueError, match=rf"^{option}=.* was given, but it must be "):
    pst_jax.create_model("resnet18_pst", **{option: value})


def test_numbers_of_numpy_are_taken():
  model = pst_jax.create_model("resnet18_pst", top_k=np.int64(4), width=np.float32(0.5))
  assert model.top_k == 4


@pytest.mark.parametrize(
  ("name", "stem", "size", "least"),
  [
    ("resnet18", "imagenet", (31, 64), 32),
    ("resnet18_pst", "small", (8, 7), 8),
    ("yolo11n-cls-pst", "imagenet", (64, 31), 32),
  ],
)
def test_images_that_are_too_small_are_refused_with_the_least_size(name, stem, size, least):
  model = pst_jax.create_model(name, stem=stem)
  with pytest.raises(
    ValueError, match=rf"{size[0]}x{size[1]} pixels .*: give at least {least}x{least}"
  ):
    shapes(model, pictures(*size))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_smallest_images_are_taken(name):
  logits, _ = shapes(pst_jax.create_model(name, top_k=1, **SMALL), pictures(8, 8))
  assert logits.shape == (4, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_top_k_beyond_the_coarse_tokens_is_refused(name):
  with pytest.raises(ValueError, match=r"top_k=17 .*4x4 has 16: choose top_k between 0 and 16"):
    shapes(pst_jax.create_model(name, top_k=17, **SMALL), pictures(32, 32))


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_that_do_not_divide_the_batch_are_refused_in_training(name):
  model, images = pst_jax.create_model(name, group_size=3, **SMALL), pictures(32, 32)
  _, variables = shapes(model, images)
  with pytest.raises(ValueError, match="groups of 3 examples do not divide a batch of 4"):
    jax.eval_shape(
      lambda v, x: model.apply(v, x, train=True, mutable="batch_stats"), variables, images
    )

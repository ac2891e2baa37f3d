import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pst_jax.errors import UserError
from train.freezing import described, is_trained, matches
from train.optim import make_optimizer
from train.schema import OptimConfig

PARAMS = {
  "backbone": {"stem": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}},
  "neck": {"pst": {"gate_kernel": jnp.ones(4), "gate_bias": jnp.ones(1), "kernel": jnp.ones(5)}},
  "head": {"kernel": jnp.ones((2, 2)), "bias": -jnp.zeros(2)},
}


def trained(trainable=(), frozen=()):
  flags = is_trained(PARAMS, trainable, frozen)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, flag in jax.tree_util.tree_leaves_with_path(flags)
    if flag
  }


GATE = {"neck/pst/gate_kernel", "neck/pst/gate_bias"}
ALL = trained()


def test_without_patterns_everything_is_trained():
  assert len(ALL) == 7


def test_trainable_alone_leaves_the_rest():
  assert trained(trainable=("*/gate*",)) == GATE


def test_frozen_alone_trains_the_rest():
  assert trained(frozen=("backbone/*", "*/gate*")) == {
    "neck/pst/kernel",
    "head/kernel",
    "head/bias",
  }


def test_trainable_is_an_exception_from_frozen():
  assert trained(trainable=("*/bias",), frozen=("backbone/*",)) == ALL - {"backbone/stem/kernel"}


def test_the_first_pattern_that_matches_decides():
  found = matches(PARAMS, ("*/gate_kernel",), ("neck/*", "neck/pst/gate*"))
  assert [(m.is_trained, m.names) for m in found] == [
    (True, ("neck/pst/gate_kernel",)),
    (False, ("neck/pst/gate_bias", "neck/pst/kernel")),
    (False, ()),
  ]


def test_every_match_is_described():
  lines = described(PARAMS, ("*/gate*",), ())
  assert lines == [
    "*/gate* trains 2 parameters",
    "  neck/pst/gate_bias",
    "  neck/pst/gate_kernel",
    "5 of 24 numbers are trained",
  ]
  assert described(PARAMS, (), ()) == []


@pytest.mark.parametrize(
  ("pattern", "closest"),
  [
    ("backbone/stem/kernal", "backbone/stem/kernel"),
    ("gate_kernel", "neck/pst/gate_kernel"),
    ("params/head/kernel", "head/kernel"),
  ],
)
@pytest.mark.parametrize("option", ["trainable", "frozen"])
def test_a_pattern_that_matches_nothing_names_the_closest(option, pattern, closest):
  message = rf"optim\.{option} has the pattern '{pattern}', which matches no .*: {closest}"
  with pytest.raises(UserError, match=message.replace(": ", ": the closest are .*")):
    trained(**{option: (pattern,)})


def test_a_run_that_learns_nothing_is_an_error():
  with pytest.raises(UserError, match="leaves no parameter to train"):
    trained(frozen=("*",))


# The optimizer


def step_with(config, grads):
  optimizer = make_optimizer(config, lambda _: 0.5)
  state = optimizer.init(PARAMS)
  updates, state = optimizer.update(grads, state, PARAMS)
  return optax.apply_updates(PARAMS, updates), state


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(name):
  config = OptimConfig(name=name, trainable=("*/gate*",), weight_decay=0.1)
  found, _ = step_with(config, jax.tree.map(jnp.ones_like, PARAMS))
  for path, leaf in jax.tree_util.tree_leaves_with_path(found):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    start = PARAMS[path[0].key]
    for key in path[1:]:
      start = start[key.key]
    assert (np.asarray(leaf).tobytes() == np.asarray(start).tobytes()) == (name not in GATE)


@pytest.mark.parametrize(("name", "copies"), [("sgd", 1), ("adamw", 2), ("lamb", 2)])
def test_what_is_frozen_takes_no_memory_of_the_optimizer(name, copies):
  config = OptimConfig(name=name, trainable=("*/gate*",))
  _, state = step_with(config, jax.tree.map(jnp.ones_like, PARAMS))
  sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert sum(sizes) == copies * 5


def test_what_is_frozen_counts_nothing_in_the_norm_that_clips():
  config = OptimConfig(
    trainable=("*/gate_bias",), momentum=0.0, weight_decay=0.0, clip_norm=2.0, learning_rate=0.5
  )
  huge = jax.tree.map(lambda p: jnp.full_like(p, 1e6), PARAMS)
  huge["neck"]["pst"]["gate_bias"] = jnp.array([2.0])
  found, _ = step_with(config, huge)
  assert float(found["neck"]["pst"]["gate_bias"][0]) == pytest.approx(1 - 0.5 * 2)

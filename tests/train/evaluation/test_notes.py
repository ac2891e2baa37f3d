"""What a run says of evaluations that cannot do what is asked."""

import pytest

from train.config import Config, DataConfig, ModelConfig
from train.evaluation.evaluator import top_k_notes
from train.setup import make_setup


@pytest.mark.parametrize(
  ("name", "top_k", "evals", "count"),
  [
    ("resnet18", 5, (0,), 1),
    ("resnet18", 0, (0, 1), 1),
    ("resnet18", 0, (0,), 0),
    ("resnet18_pst", 1, (0, 1), 0),
  ],
)
def test_a_fine_branch_that_is_not_there_is_pointed_out(name, top_k, evals, count):
  config = Config(
    batch_size=8,
    eval_top_k=evals,
    model=ModelConfig(name=name, top_k=top_k, stem="small", width=0.125),
    data=DataConfig(image_size=16),
  )
  found = top_k_notes(make_setup(config, 4, 24))
  assert found == [f"{name} has no PST module: top_k plays no part, whatever it is"] * count

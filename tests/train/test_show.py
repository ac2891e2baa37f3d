import dataclasses

import cv2
import numpy as np
import pytest

from pst_jax.errors import UserError
from train.config import load_file
from train.data import train_batches
from train.run.folder import open_run
from train.show import main, training_pictures
from train.tasks import registry


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  config = load_file("configs/classification/digits.py")
  data = dataclasses.replace(config.data, data_dir=str(tmp_path_factory.mktemp("data")))
  return dataclasses.replace(config, data=data, batch_size=4)


def test_pictures_are_the_batches_with_the_names_of_their_classes(config):
  dataset = registry.find(config.task).open(config)
  batches = train_batches(dataset, config.data, seed=0, batch_size=4, first_step=3)
  expected = [next(batches) for _ in range(2)]
  pictures = training_pictures(config, 6, first_step=3)
  images = np.concatenate([batch["image"] for batch in expected])[:6]
  labels = np.concatenate([batch["label"] for batch in expected])[:6]
  assert all(np.array_equal(p.image, image) for p, image in zip(pictures, images, strict=True))
  assert [picture.caption for picture in pictures] == [str(label) for label in labels]


def test_what_the_device_does_is_drawn_too(config):
  mixed = dataclasses.replace(config, data=dataclasses.replace(config.data, mixup=1.0))
  plain, drawn = training_pictures(config, 4, 0), training_pictures(mixed, 4, 0)
  assert any((one.image != two.image).any() for one, two in zip(plain, drawn, strict=True))
  assert all("%, " in picture.caption for picture in drawn)


def test_images_in_blocks_are_drawn_as_images(config):
  blocks = dataclasses.replace(config, data=dataclasses.replace(config.data, space_to_depth=True))
  plain, drawn = training_pictures(config, 4, 0), training_pictures(blocks, 4, 0)
  assert all((one.image == two.image).all() for one, two in zip(plain, drawn, strict=True))


def test_the_command_writes_the_grid(config, tmp_path, capsys):
  output = tmp_path / "grid.png"
  main(
    ["digits", "--images", "5", "--output", str(output), "--data.data-dir", config.data.data_dir]
  )
  grid = cv2.imread(str(output))
  assert f"5 images, {grid.shape[1]} x {grid.shape[0]} pixels" in capsys.readouterr().out


def test_a_file_that_exists_is_kept_unless_forced(config, tmp_path):
  output = tmp_path / "grid.png"
  output.write_text("mine")
  arguments = ["digits", "--output", str(output), "--data.data-dir", config.data.data_dir]
  with pytest.raises(UserError, match="this file exists and is kept"):
    main(arguments)
  main([*arguments, "--force"])
  assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments", [["--images", "0"], ["--step", "-1"]])
def test_numbers_that_cannot_be_are_refused(arguments, tmp_path):
  with pytest.raises(UserError, match="--images must be 1 or more"):
    main(["digits", "--output", str(tmp_path / "x.png"), *arguments])


def test_the_folder_of_a_run_means_its_config(config, tmp_path):
  run = tmp_path / "run"
  with open_run(dataclasses.replace(config, run_dir=str(run))):
    pass
  main([str(run), "--images", "2", "--output", str(tmp_path / "grid.png")])
  assert (tmp_path / "grid.png").exists()

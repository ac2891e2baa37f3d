"""What belongs to classification alone stands in its folder alone."""

import pathlib
import re

TRAIN = pathlib.Path(__file__).parents[3] / "train"
# Boxes have labels too; transforms and preparation are each written for one kind of data.
ALLOWED = (
  "tasks/classification/",
  "tasks/detection/",
  "data/box_records.py",
  "data/transforms/",
  "data/digit",
  "data/drawing.py",
  "data/prepare",
  "prepare.py",
)
WORDS = re.compile(r"\blabels?\b|top[-_]?[15]\b|cross.entropy|head/linear", re.IGNORECASE)
# Words of other crafts: matplotlib's, optax's for leaves, and the compiler's for dimensions.
OTHERS = re.compile(
  r'"label": rule|dim_labels|dimension labels|in zip\(labels, dims|The label "bias"|'
  r"def labels\(params\)|still\}, labels\)"
)


def test_nothing_outside_classification_knows_of_it():
  found = []
  for path in sorted(TRAIN.rglob("*.py")):
    name = path.relative_to(TRAIN).as_posix()
    if not name.startswith(ALLOWED):
      for number, line in enumerate(path.read_text().splitlines(), start=1):
        if WORDS.search(line) and not OTHERS.search(line):
          found.append(f"{name}:{number}: {line.strip()}")
  assert found == []


def test_the_words_are_found_where_they_belong():
  assert WORDS.search((TRAIN / "tasks/classification/task.py").read_text())

"""Boxes of one's own, from weights of any detector: yolo11n-pst, its classes' branch new.

Command    python -m train configs/detection/folder.py --data.dataset NAME \
             --data.data-dir DIR --init-from WEIGHTS
Data       NAME, prepared by `python -m train.prepare coco`, `yolo` or `voc` in DIR; without a
           split `test`: --data.eval-split validation
Weights    a run folder, a .pt, .pth or .safetensors of the same network; the branch of the classes
           is new where their number differs. From nothing: --init-from "" and more epochs
Hardware   any; a GPU of 8 GB, or two CPU cores with --data.image-size 320 and patience
Accuracy   none known: it depends on the images
Reproduced no

Another network: --model.name yolo11s-pst (one without PST: --optim.frozen with no pattern). The
learning rate is a tenth of what training from nothing takes at this size of batch.
"""

from train.config import CheckpointConfig, EvalConfig, ModelConfig, replace
from train.tasks.detection.config import RECIPE, Config, DataConfig

config = Config(
  run_dir="runs/folder",
  init_from="yolo11n-pst.safetensors",
  epochs=100,
  batch_size=16,
  eval_batch_size=16,
  eval_every_epochs=5,
  evals={"coarse": EvalConfig(top_k=0), "fine": EvalConfig(top_k=8)},
  ema_decay=0.999,
  ema_ramp=200.0,
  model=ModelConfig(name="yolo11n-pst"),
  data=DataConfig(dataset="my_boxes", data_dir="data", eval_split="test"),
  optim=replace(RECIPE, learning_rate=1e-3, weight_decay=5e-4, frozen=("*/gate*",)),
  checkpoint=CheckpointConfig(every_epochs=5),
)

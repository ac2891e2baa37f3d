"""ONNX Runtime on the CPU: this project's exported file against torch.compile and against Flax.

    python -m benchmarks.onnx_runtime
    python -m benchmarks.onnx_runtime --quick

Inference of classifiers in float32, BatchNorm folded on all sides, the same threads. Each
repetition times both sides of a row one right after the other; the ratio is the median of ONNX
Runtime / other: below 1 the file is faster. Needs the extra `onnx`, and a C++ compiler.
"""

import pathlib
import tempfile

import numpy as np
import onnxruntime
import torch

from benchmarks.common import measure
from benchmarks.networks import begin, cases
from pst_jax.torch.export import export_onnx


def main() -> None:
  """Prints the table."""
  options = begin(__doc__, batches=[1, 8], top_k=0)
  threads = torch.get_num_threads()
  print(f"onnxruntime {onnxruntime.__version__}")
  print(f"{'model':12} {'batch':>5} {'other side':30} {'ONNX':>9} {'other':>9}  ratio")
  for begun, flax, make_twin in cases(options):
    twin = make_twin(torch.channels_last)
    images = twin.images.contiguous().numpy()
    session = _session(twin.model, options.size, threads)
    twin.compile("inference")

    def run(session=session, images=images):
      return session.run(None, {"images": images})[0]

    others = {"torch.compile, channels_last": twin.inference, "Flax, jit": flax.folded_inference}
    for label, other in others.items():
      difference = np.abs(np.asarray(other()) - run()).max()
      assert difference <= 2e-3 * np.std(run()), f"{begun}: logits differ by {difference}"
      ours, theirs, ratio = measure(run, other, options.repeats)
      print(f"{begun} {label:30} {ours:8.3f}s {theirs:8.3f}s  {ratio:5.2f}", flush=True)


def _session(model, size: int, threads: int) -> onnxruntime.InferenceSession:
  settings = onnxruntime.SessionOptions()
  settings.intra_op_num_threads = threads
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "network.onnx"
    export_onnx(model, path, size)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
  main()

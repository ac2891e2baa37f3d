import os
import pathlib
import shutil
import sys
import tempfile

# Eight fake devices let one process test meshes of 1, 2, 4 and 8.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# PyTorch's idle threads would spin on the cores that JAX needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# What one worker, or one process that a test starts, compiled is read by all others.
_COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _COMPILED = tempfile.mkdtemp(prefix="pst_jax-compiled-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
sys.path.insert(0, str(pathlib.Path(__file__).parent))


def pytest_unconfigure() -> None:
  if _COMPILED:
    shutil.rmtree(_COMPILED, ignore_errors=True)

import os
import pathlib
import sys

# Eight fake devices let one process test meshes of 1, 2, 4 and 8.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# PyTorch's idle threads would spin on the cores that JAX needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

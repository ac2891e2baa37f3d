import importlib.util

HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]


def pytest_report_header():
  return None if HAS_TORCH else "tests/twins is left out: PyTorch is not installed"

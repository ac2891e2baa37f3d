"""python -m fuzz.run [TARGET...] --seconds N: new inputs for every reader of files from outside.

Starts from the inputs in tests/fuzz_corpus and mutates what reaches new code (atheris, libFuzzer).
An input that breaks a reader ends the command with exit code 1 and is kept: mend the reader, and
put the input into tests/fuzz_corpus/TARGET, where the tests try it for ever.

  python -m fuzz.run --seconds 60                 60 seconds for all targets together
  python -m fuzz.run torch_file --seconds 3600 --corpus /tmp/corpus
  python -m fuzz.run tar --replay crash-0123abcd  one input again, without atheris

Needs the extras fuzz and train.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

CORPUS = pathlib.Path(__file__).parents[1] / "tests" / "fuzz_corpus"
NAMES = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
MAX_LENGTH = 16_384


def main(arguments: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog="python -m fuzz.run",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"of {', '.join(NAMES)}")
  parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
  parser.add_argument("--corpus", help="a folder that keeps new inputs, for the next time")
  parser.add_argument("--found", default=".", help="a folder for an input that breaks a reader")
  parser.add_argument("--replay", metavar="FILE", help="run one input, and nothing else")
  options = parser.parse_args(arguments)
  targets = options.targets or NAMES
  unknown = sorted(set(targets) - set(NAMES))
  if unknown:
    parser.error(f"there is no target {unknown[0]}: give of {', '.join(NAMES)}")
  if options.replay:
    from fuzz.targets import TARGETS, check

    for name in targets:
      check(TARGETS[name], pathlib.Path(options.replay).read_bytes())
    return 0
  seconds = max(1, options.seconds // len(targets))
  with tempfile.TemporaryDirectory() as temporary:
    new = pathlib.Path(options.corpus or temporary)
    results = [_fuzz(name, seconds, new / name, options.found) for name in targets]
  return max(results)


def _fuzz(name: str, seconds: int, new: pathlib.Path, found: str) -> int:
  """Fuzzes a target in a process of its own, which libFuzzer ends; 1 if an input broke it."""
  new.mkdir(parents=True, exist_ok=True)
  command = [sys.executable, "-m", "fuzz.worker", name, str(new), str(CORPUS / name)]
  flags = {
    "max_total_time": seconds,
    "max_len": MAX_LENGTH,
    "timeout": 60,
    "rss_limit_mb": 0,  # the worker looks at its memory itself
    "print_final_stats": 1,
    "artifact_prefix": f"{pathlib.Path(found).absolute()}/{name}-",
  }
  done = subprocess.run(
    [*command, *(f"-{flag}={value}" for flag, value in flags.items())],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
    env={**os.environ, "OPENCV_LOG_LEVEL": "OFF"},
  )
  count = re.search(r"number_of_executed_units: *(\d+)", done.stdout)
  inputs = f"{int(count[1]):,} inputs" if count else "ended early"
  print(f"{name}: {inputs} in {seconds} s, {len(list(new.iterdir()))} of them kept", flush=True)
  if done.returncode or not count:
    print(done.stdout[-8000:], flush=True)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

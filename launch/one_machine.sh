#!/usr/bin/env bash
# One machine with 8 GPUs (or any number, or TPU chips): one process uses all of them.
#
#   RUN_DIR=/disk/runs/r50 DATA_DIR=/disk/data launch/one_machine.sh imagenet_r50_cls_pst
#
# Expect: three lines on the run, the folder and the devices ("devices: 8 x NVIDIA H100 80GB HBM3");
# minutes of compiling at the first start, seconds later; then a line of progress.
# Ctrl-C or SIGTERM: it saves, stops and exits with 130 or 143. The same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
config="${1:?give a config, then its options}"
shift
: "${RUN_DIR:?set it to a folder that outlives this machine}"
: "${DATA_DIR:?set it to the folder of the prepared data}"

# JAX takes 75 % of a GPU's memory by default.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
# The next start finds its programs compiled.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$RUN_DIR-compiled}"

# exec: a signal to this script is a signal to the trainer.
exec python -m train "$config" --run-dir "$RUN_DIR" --data.data-dir "$DATA_DIR" "$@"

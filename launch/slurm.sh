#!/usr/bin/env bash
# SLURM: one task for each GPU, which is what JAX expects of it. From the root of the clone, in the
# environment to be used:
#
#   export RUN_DIR=/shared/runs/r50 DATA_DIR=/shared/data
#   sbatch --nodes=2 launch/slurm.sh imagenet_r50_cls_pst
#
# Both folders on a file system that all nodes share. JAX reads from SLURM who takes part; the port
# follows from the job's number. Expect in pst_jax-JOB.out: "devices: 16 x NVIDIA H100 80GB HBM3 in
# 16 processes", then progress. Two minutes before the time limit, and at a preemption, SLURM sends
# SIGTERM: all tasks save and stop after the same step with 143, the job is queued again, and goes on
# there bit for bit. A task that dies ends all with a sentence; then the job ends, with what is saved.
# scancel ends it for good.
#SBATCH --job-name=pst_jax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail
config="${1:?give a config, then its options}"
shift
: "${RUN_DIR:?set it to a folder that all nodes share}"
: "${DATA_DIR:?set it to the folder of the prepared data}"

# JAX takes 75 % of a GPU's memory by default.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
# The next start finds its programs compiled.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$RUN_DIR-compiled}"

# The trainer ends all tasks itself, after the save: srun must not do so when the first one ends.
# Since SLURM 22.05 srun does not take over the CPUs per task.
code=0
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  python -m train "$config" --run-dir "$RUN_DIR" --data.data-dir "$DATA_DIR" \
  --data.threads "${SLURM_CPUS_PER_TASK:-1}" "$@" || code=$?

# 143: SIGTERM stopped it. Of a job that scancel ends the state is another than RUNNING.
if [[ $code == 143 && $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
  echo "stopped and saved: job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

#!/usr/bin/env bash
# A slice of TPU VMs, of one host or many: the same command on every host.
#
#   export TPU=r50 ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite
#   export REPO=https://github.com/YOU/pst_jax RUN_DIR=gs://BUCKET/r50 DATA_DIR=gs://BUCKET/data
#   launch/tpu_vm.sh create --spot     # asks for the slice: minutes, or days where chips are scarce
#   launch/tpu_vm.sh state             # ACTIVE: it is there; SUSPENDED: it was preempted
#   launch/tpu_vm.sh setup             # clones and installs on every host, some minutes
#   launch/tpu_vm.sh train imagenet_pod --data.threads 100
#   launch/tpu_vm.sh log               # follows the first host; Ctrl-C ends the following alone
#   launch/tpu_vm.sh stop              # saves and stops; `train` again goes on
#   launch/tpu_vm.sh delete
#
# RUN_DIR and DATA_DIR must be what every host sees: a bucket near the slice that its service account
# may read and write, or a folder that is mounted on all, such as a Filestore share.
# Expect in the log: "devices: 16 x TPU v5 lite in 4 processes"; JAX asks the metadata server who
# takes part. The trainer is a unit of systemd: a closed laptop does not end it, and when the machine
# is preempted systemd sends SIGTERM, at which all hosts save and stop, if they manage in the
# 30 seconds that there are. Else the run goes on from the checkpoint before. A preempted slice does
# not come back: delete, create, setup and train with the same RUN_DIR.
set -euo pipefail
: "${TPU:?set it to a name for the slice}" "${ZONE:?set it to the zone}"

on_hosts() {  # WHICH COMMAND
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" --command="$2"
}

action="${1:?create, state, setup, train, log, stop or delete}"
shift
case "$action" in
  create)
    gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" \
      --accelerator-type="${TYPE:?}" --runtime-version="${VERSION:?}" "$@"
    ;;
  state)
    gcloud compute tpus queued-resources describe "$TPU" --zone="$ZONE" --format='value(state.state)'
    ;;
  setup)
    # The image's own Python may be older than 3.11: uv brings one.
    on_hosts all "curl -LsSf https://astral.sh/uv/install.sh | sh &&
      rm -rf pst_jax && git clone --depth=1 ${REPO:?} pst_jax && cd pst_jax &&
      ~/.local/bin/uv venv --python=3.12 .venv &&
      ~/.local/bin/uv pip install --python=.venv/bin/python -e '.[train,tpu,gcs]'"
    ;;
  train)
    config="${1:?give a config, then its options}"
    shift
    given=("$config" --run-dir "${RUN_DIR:?}" --data.data-dir "${DATA_DIR:?}" "$@")
    on_hosts all "sudo systemd-run --unit=pst_jax --collect --uid=\$USER --setenv=HOME=\$HOME \
      --setenv=JAX_COMPILATION_CACHE_DIR=$(printf %q "$RUN_DIR-compiled") \
      --working-directory=\$HOME/pst_jax --property=TimeoutStopSec=120 --property=KillMode=mixed \
      --property=LimitNOFILE=524288 \
      \$HOME/pst_jax/.venv/bin/python -m train $(printf '%q ' "${given[@]}")"
    ;;
  log) on_hosts 0 "sudo journalctl --unit=pst_jax --output=cat --lines=100 --follow" ;;
  stop) on_hosts all "sudo systemctl stop pst_jax" ;;
  delete)
    gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force
    ;;
  *)
    echo "error: $action is unknown: create, state, setup, train, log, stop or delete" >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# A cluster of GKE by XPK (pip install xpk; kubectl and docker too). The cluster, once:
#
#   xpk cluster create --cluster=CLUSTER --project=PROJECT --zone=ZONE --tpu-type=v5litepod-16 \
#     --num-slices=1 --spot
#
# Then, from the root of the clone:
#
#   export CLUSTER=... PROJECT=... ZONE=... TYPE=v5litepod-16 IMAGE=REGION-docker.pkg.dev/...
#   export RUN_DIR=/shared/runs/r50 DATA_DIR=/shared/data
#   launch/xpk.sh r50 imagenet_pod --data.threads 100
#
# /shared: a Filestore or Parallelstore volume that `xpk storage attach` mounts in every pod; or give
# gs://BUCKET/..., which the pods' service account may read and write.
# Expect: a link to the logs, and in them "devices: 16 x TPU v5 lite in 4 processes". A pod that has
# to go gets SIGTERM, at which all pods save and stop with 143; XPK starts all of them again, up to
# --max-restarts times, and they go on. A pod that is lost without a word ends the others with 1,
# which by default is no reason for XPK to start again, so that it is named here.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CLUSTER:?}" "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}" "${IMAGE:?}" "${RUN_DIR:?}" "${DATA_DIR:?}"
workload="${1:?give a name for the workload, a config, then its options}"
config="${2:?give a name for the workload, a config, then its options}"
shift 2

docker build -f launch/Dockerfile --build-arg EXTRA=tpu -t "$IMAGE" .
docker push "$IMAGE"

# exec: XPK's SIGTERM is for the shell that it starts, which the trainer replaces. It comes within 5
# seconds, which the grace must leave. A spot machine gives 15 by default, whatever stands here:
# https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms
given=("$config" --run-dir "$RUN_DIR" --data.data-dir "$DATA_DIR" "$@")
xpk workload create --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" \
  --workload="$workload" --tpu-type="$TYPE" --num-slices=1 --docker-image="$IMAGE" \
  --env="JAX_COMPILATION_CACHE_DIR=$RUN_DIR-compiled" \
  --max-restarts=100 --restart-on-exit-codes=1 --termination-grace-period-seconds=120 \
  --command="exec python -m train $(printf '%q ' "${given[@]}")"

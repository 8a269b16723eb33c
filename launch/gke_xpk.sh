#!/usr/bin/env bash
# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# Trains on TPU slices in GKE, by xpk (https://github.com/AI-Hypercomputer/xpk).
#
# Usage: bash launch/gke_xpk.sh COMMAND --cluster=NAME --project=PROJECT --zone=ZONE [OPTION ...] \
#          [-- --config=experiments/X.py --workdir=gs://BUCKET/FOLDER [--config.KEY=VALUE ...]]
#
#   cluster         makes the cluster with its slices, or changes how many there are
#   image           builds launch/Dockerfile from this tree, and pushes it
#   start           starts the training (a JobSet), unless it runs; what has ended is started again
#   status          of the training and its hosts (pods)
#   logs            follows the log of host 0 of slice 0
#   delete          ends the training, which saves first; the slices stay, and are billed
#   delete_cluster  deletes the cluster; nothing is billed after it
#
#   --name=NAME       of the training, at most 40 letters, digits and '-' (default: fspo)
#   --type=TYPE       such as v5e-64, v5p-64, v6e-64, tpu7x-64
#   --slices=N        slices of the cluster, and of the training (default: 1)
#   --spot            slices that may be preempted; or --on_demand, --flex, --reservation=NAME
#   --image=IMAGE     such as us-west4-docker.pkg.dev/PROJECT/REPOSITORY/fspo_jax:1
#   --restarts=N      how often the training is started again, from its last checkpoint, when a host
#                     is preempted or it fails (default: 50)
#   --priority=LEVEL  in the cluster's queue: very-low, low, medium, high or very-high
#   --env=KEY=VALUE   in the environment of the training; repeatable
#   --dry_run         prints the commands of a first call, and does nothing
#
# Every command can be called again; what is done, is not done twice. A slice is billed from when
# the cluster has it until it is deleted, whatever runs on it.
set -euo pipefail
# shellcheck source=launch/cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"

cluster="" project="" zone="" name=fspo type="" slices=1 tier="" image="" restarts=50 priority=""
where=() environment=()

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --cluster=*) cluster=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --zone=*) zone=${1#*=} ;;
      --name=*) name=${1#*=} ;;
      --type=*) type=${1#*=} ;;
      --slices=*) slices=${1#*=} ;;
      --spot | --on_demand | --flex | --reservation=?*)
        if [ -n "$tier" ]; then die "found $tier and $1, expected one of them."; fi
        tier=${1/on_demand/on-demand}
        ;;
      --image=*) image=${1#*=} ;;
      --restarts=*) restarts=${1#*=} ;;
      --priority=*) priority=${1#*=} ;;
      --env=?*=*) environment+=("$1") ;;
      --dry_run) DRY_RUN=yes ;;
      --) shift; FLAGS=("$@"); return ;;
      *) die "found '$1'; --help lists the options. Flags of the training come after '--'." ;;
    esac
    shift
  done
}

check_options() {
  local option
  for option in cluster project zone; do
    if [ -z "${!option}" ]; then die "found no --$option."; fi
  done
  need_name "$name"
  if [ ${#name} -gt 40 ]; then die "--name=$name: expected at most 40 characters."; fi
  need_count --slices "$slices" 1
  need_count --restarts "$restarts" 0
  where=(--cluster="$cluster" --project="$project" --zone="$zone")
}

need_type() {
  case $type in
    v5e-*) type=v5litepod-${type#*-} ;;
    ?*-?*) ;;
    *) die "--type='$type': expected one such as v5e-64, v5p-64 or v6e-64." ;;
  esac
}

need_image() {
  case $image in
    */*:?*) ;;
    *) die "--image='$image': expected REGISTRY/NAME:TAG, such as" \
      "us-west4-docker.pkg.dev/PROJECT/REPOSITORY/fspo_jax:1." ;;
  esac
}

xpk() {
  if [ -n "$DRY_RUN" ]; then quoted xpk "$@"; else command xpk "$@"; fi
}

# Points kubectl at the cluster, which spans the zone's region. xpk does the same.
use_cluster() {
  act gcloud container clusters get-credentials "$cluster" --location="${zone%-*}" \
    --project="$project" --quiet || die "no cluster $cluster in ${zone%-*}? See 'cluster'."
}

# Sets `state` of the training: NONE, RUNNING (or waiting for its turn), or how it has ended.
look() {
  use_cluster
  state=NONE
  if [ -n "$DRY_RUN" ]; then
    quoted kubectl get jobset "$name" --ignore-not-found --output=name
  elif [ -n "$(kubectl get jobset "$name" --ignore-not-found --output=name)" ]; then
    state=$(kubectl get jobset "$name" --output="jsonpath={.status.terminalState}")
    state=${state:-RUNNING}
  fi
}

delete() {
  xpk workload delete --workload="$name" "${where[@]}" --force --quiet
}

start() {
  look
  if [ "$state" = RUNNING ]; then
    say "$name runs already, or waits for its turn: see 'status' and 'logs'"
    return
  fi
  if [ "$state" != NONE ]; then
    say "$name has ended before ($state); starting it again"
    delete
  fi
  # exec: the signal that asks to save has to reach the training, not a shell around it. A code of
  # 2 is a refusal before any compute, which would come again; all others are worth a restart.
  xpk workload create --workload="$name" "${where[@]}" --tpu-type="$type" --num-slices="$slices" \
    --docker-image="$image" --max-restarts="$restarts" --restart-on-exit-codes=1,3-126 \
    --termination-grace-period-seconds=120 ${priority:+--priority="$priority"} \
    ${environment[@]+"${environment[@]}"} \
    --command="exec python -m fspo_jax.main $(quoted "${FLAGS[@]}")"
}

command=${1:-}
case $command in
  -h | --help) usage; exit ;;
  cluster | image | start | status | logs | delete | delete_cluster) shift ;;
  *) die "found '$command', expected a command: cluster, image, start, status, logs, delete," \
    "delete_cluster (--help says more)." ;;
esac
parse "$@"
check_options
need gcloud "It comes with the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"

case $command in
  cluster)
    need_type
    need xpk "Get it with: pip install xpk"
    if [ -z "$tier" ]; then die "found no --spot, --on_demand, --flex or --reservation=NAME."; fi
    xpk cluster create "${where[@]}" --tpu-type="$type" --num-slices="$slices" "$tier"
    ;;
  image)
    need_image
    need docker "See https://docs.docker.com/engine/install"
    # Dockerfile.dockerignore, beside it, needs BuildKit.
    act env DOCKER_BUILDKIT=1 docker build --platform=linux/amd64 --file="$ROOT/launch/Dockerfile" \
      --tag="$image" "$ROOT"
    act gcloud auth configure-docker "${image%%/*}" --quiet
    act docker push "$image"
    ;;
  start)
    need_type
    need_image
    training_flags ${FLAGS[@]+"${FLAGS[@]}"}
    need_bucket "${FLAGS[@]}"
    need xpk "Get it with: pip install xpk"
    need kubectl "Get it with: gcloud components install kubectl"
    start
    ;;
  status)
    need kubectl "Get it with: gcloud components install kubectl"
    use_cluster
    act kubectl get jobset "$name" --ignore-not-found
    act kubectl get pods --selector="jobset.sigs.k8s.io/jobset-name=$name" --output=wide
    ;;
  logs)
    need kubectl "Get it with: gcloud components install kubectl"
    use_cluster
    selector=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0
    selector=$selector,batch.kubernetes.io/job-completion-index=0
    act kubectl logs --follow --tail=100 --selector="$selector"
    ;;
  delete)
    need xpk "Get it with: pip install xpk"
    need kubectl "Get it with: gcloud components install kubectl"
    look
    if [ -z "$DRY_RUN" ] && [ "$state" = NONE ]; then
      say "there is no $name; the slices of $cluster are billed until 'delete_cluster'"
    else
      delete
    fi
    ;;
  delete_cluster)
    need xpk "Get it with: pip install xpk"
    if [ -z "$DRY_RUN" ] && [ -z "$(gcloud container clusters list --project="$project" \
      --filter="name=$cluster" --format="value(name)")" ]; then
      say "there is no $cluster; nothing of it is billed"
    else
      xpk cluster delete "${where[@]}" # It asks, where trainings run.
    fi
    ;;
esac

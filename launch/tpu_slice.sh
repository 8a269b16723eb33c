# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The slice of launch/tpu_pod.sh: asked for, waited for, deleted. Sourced by it alone; the variables
# are those of its options.
# shellcheck disable=SC2034,SC2154

# Sets `type` as gcloud spells it, `runtime`, and `chips`, of all slices.
check_type() {
  local size=${type##*-} kind=${type%-*} cores_per_chip=1 image
  case $kind in
    v5e | v5litepod) kind=v5litepod image=v2-alpha-tpuv5-lite ;;
    v6e) image=v2-alpha-tpuv6e ;;
    v5p) cores_per_chip=2 image=v2-alpha-tpuv5 ;;
    v2 | v3 | v4) cores_per_chip=2 image=tpu-ubuntu2204-base ;;
    tpu7x) die "--type=$type: only GKE has these; use launch/gke_xpk.sh." ;;
    *) die "--type='$type': expected one such as v5e-64, v5p-64 or v6e-64." ;;
  esac
  case $size in "" | *[!0-9]*) die "--type=$type: expected a number after the '-'." ;; esac
  type=$kind-$size
  runtime=${runtime:-$image}
  chips=$((size * slices / cores_per_chip))
}

tpus() { act gcloud compute tpus "$@"; }

# Asks gcloud something. Prints the answer, or NONE where there is no such thing; fails where gcloud
# could not say.
ask() {
  local answer
  if answer=$(gcloud compute tpus "$@" "${where[@]}" 2>"$scratch/error"); then
    printf '%s\n' "${answer:-UNKNOWN}"
  elif grep -qE 'NOT_FOUND|was not found' "$scratch/error"; then
    echo NONE
  else
    cat "$scratch/error" >&2
    return 1
  fi
}

request_state() { ask queued-resources describe "$name" --format="value(state.state)"; }
node_state() { ask tpu-vm describe "$1" --format="value(state)"; }

# Waits until the request's state is not among the words of $1 (between '|'); sets `state`.
wait_while() {
  local last="" blind=0
  while :; do
    if state=$(request_state); then
      if [[ "|$1|" != *"|$state|"* ]]; then return; fi
      if [ "$state" != "$last" ]; then say "$name: $state"; fi
      last=$state blind=0
    else # A wait of hours may see the network fail, but not before gcloud has answered once.
      blind=$((blind + 1))
      if [ -z "$last" ] || [ "$blind" -ge 20 ]; then
        die "gcloud could not say what state $name is in, for the reason above."
      fi
    fi
    sleep "$POLL"
  done
}

# What gcloud's refusal of a request means, where it is a common one.
die_of_request() {
  local why="gcloud refused the request, for the reason above"
  if grep -qiE 'quota|RESOURCE_EXHAUSTED' "$scratch/error"; then
    why="the project has no quota for it in $zone (requests that are SUSPENDED or FAILED count:"
    why="$why gcloud compute tpus queued-resources list --zone=$zone). More is asked for in the"
    why="$why console, under IAM & Admin, Quotas, TPU; spot and on demand have quotas of their own"
  elif grep -qiE 'PERMISSION_DENIED|has not been used|disabled|permission' "$scratch/error"; then
    why="no permission: is tpu.googleapis.com enabled, and have you roles/tpu.admin, and"
    why="$why roles/iam.serviceAccountUser on the service account?"
  elif grep -qiE 'INVALID_ARGUMENT|not found in zone|unsupported' "$scratch/error"; then
    why="is there $type in $zone? gcloud compute tpus accelerator-types list --zone=$zone"
  fi
  die "$why."
}

request() {
  local place=(--node-id="$name")
  if [ "$slices" -gt 1 ]; then place=(--node-count="$slices" --node-prefix="$name"); fi
  tpus queued-resources create "$name" "${where[@]}" "${place[@]}" --accelerator-type="$type" \
    --runtime-version="$runtime" ${tier:+"$tier"} ${wait_for:+--valid-until-duration="$wait_for"} \
    ${account:+--service-account="$account"} ${create_flags[@]+"${create_flags[@]}"} --async --quiet
}

create() {
  check_type
  local found node tries
  if [ -n "$DRY_RUN" ]; then
    request
    tpus queued-resources describe "$name" "${where[@]}" --format="value(state.state)"
    for node in "${nodes[@]}"; do
      tpus tpu-vm describe "$node" "${where[@]}" --format="value(state)"
    done
    return
  fi
  wait_while "SUSPENDING|DELETING"
  case $state in SUSPENDED | FAILED) delete ; state=NONE ;; esac
  if [ "$state" = NONE ]; then
    say "asking for $slices x $type ($chips chips)${tier:+, ${tier#--}}"
    if ! request 2>"$scratch/error"; then
      cat "$scratch/error" >&2
      die_of_request
    fi
    for tries in {1..10}; do # It may not be listed at once.
      if [ "$(request_state)" != NONE ]; then break; fi
      if [ "$tries" -lt 10 ]; then sleep "$POLL"; fi
    done
  else
    found=$(ask queued-resources describe "$name" \
      --format="value(tpu.nodeSpec[0].node.acceleratorType.basename())")
    if [ "$found" != "$type" ]; then
      die "$name is there already, as $found; asked for was $type. Delete it, or choose a name."
    fi
  fi
  wait_while "CREATING|ACCEPTED|WAITING_FOR_RESOURCES|PROVISIONING"
  if [ "$state" != ACTIVE ]; then
    gcloud compute tpus queued-resources describe "$name" "${where[@]}" >&2 || true
    say "$name: no slice: the request is $state, for the reason above" >&2
    return 1
  fi
  for node in "${nodes[@]}"; do
    until [ "$(node_state "$node")" = READY ]; do
      if [ "$(request_state)" != ACTIVE ]; then return 1; fi
      sleep "$POLL"
    done
  done
  since=${since:-$SECONDS} there=yes
  say "$name is there: $chips chips, so $chips chip-hours are billed every hour until it is deleted"
}

delete() {
  local node
  if [ -n "$DRY_RUN" ] || [ "$(request_state)" != NONE ]; then
    tpus queued-resources delete "$name" "${where[@]}" --force --quiet ||
      die "could not delete $name, for the reason above. It may still be billed."
  fi
  if [ -n "$DRY_RUN" ]; then return; fi
  there=""
  for node in "${nodes[@]}"; do # None may outlive its request.
    if [ "$(node_state "$node")" != NONE ]; then
      tpus tpu-vm delete "$node" "${where[@]}" --quiet
    fi
  done
  say "$name is deleted; nothing of it is billed any more"
}

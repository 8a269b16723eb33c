#!/usr/bin/env bash
# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# What launch/tpu_pod.sh calls on the workers (hosts) of a TPU slice, the same on each of them.
#
# Usage: bash launch/tpu_worker.sh COMMAND [ARGUMENT ...]
#
#   install [EXTRA]               packages, into ~/fspo_venv
#   start [KEY=VALUE ...] FLAG .. the training, detached, with KEY=VALUE in its environment
#   status                        running, ended CODE, stopped, lost, or idle
#   stop | halt [SECONDS]         SIGTERM, and after SECONDS (120) SIGKILL
#   why                           the end of the log, if it has failed
#
# Each can be called again: what is done, is not done twice. ~/fspo_run has the log, the processes
# and how they ended. `stop` is someone's wish, and nobody starts the run again; `halt` is the
# launcher's, which will.
set -euo pipefail
FSPO_VENV=${FSPO_VENV:-$HOME/fspo_venv}
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

RUN=$HOME/fspo_run # with log, pid (launcher's and training's), exit, stopped

alive() {
  local wrapper
  [ -f "$RUN/pid" ] || return 1
  read -r wrapper _ <"$RUN/pid"
  # After a reboot the number may be another process's.
  # No pipe: grep -q may end before ps has written, which pipefail would call a failure.
  case $(ps -ww -p "$wrapper" -o args= 2>/dev/null) in *tpu_worker.sh*) return 0 ;; esac
  return 1
}

# Where the logs go when a run has ended: beside its folder, which has to be the run's alone.
logs_folder() {
  local word folder=""
  for word in "$@"; do
    case $word in --workdir=gs://*) folder=${word#*=} ;; esac
  done
  [ -n "$folder" ] && command -v gcloud >/dev/null && printf '%s-logs\n' "${folder%/}"
}

# A slice that cannot write its results is found out now, not at the first checkpoint.
check_bucket() {
  local folder why
  folder=$(logs_folder "$@") || return 0
  if ! why=$(date -u | gcloud storage cp --quiet - "$folder/probe-$(hostname)" 2>&1); then
    printf '%s\n' "$why" | tail -n 5 >&2
    die "$(hostname) cannot write to $folder: the slice's service account needs" \
      "roles/storage.objectAdmin on the bucket, and the bucket has to exist."
  fi
}

install() {
  if [ ! -f "$VENV/pyvenv.cfg" ] && ! (find_python) >/dev/null 2>&1; then
    # Images of TPU VMs have Python 3.10. No apt: it is busy with upgrades after a boot.
    say "no Python 3.11 or newer here; getting one with uv"
    python3 -m pip install --quiet --user uv || die "could not install uv, for the reason above."
    python3 -m uv python install 3.12 || die "uv could not install Python, for the reason above."
    PYTHON=$(python3 -m uv python find 3.12)
  fi
  ensure_venv "$1"
}

# The training and what belongs to its end; `start` leaves this behind.
run() {
  local child status=0 folder environment=()
  trap : TERM HUP INT # A shutdown tells all processes; the training acts on it.
  while [ $# -gt 0 ]; do
    case $1 in -*) break ;; *) environment+=("$1"); shift ;; esac
  done
  cd "$ROOT"
  env ${environment[@]+"${environment[@]}"} "$VENV/bin/python" -m fspo_jax.main "$@" &
  child=$!
  echo "$$ $child" >"$RUN/pid.new"
  mv "$RUN/pid.new" "$RUN/pid"
  wait_out "$child"
  say "the training ended with exit code $status at $(date -u)"
  if folder=$(logs_folder "$@"); then
    gcloud storage cp --quiet "$RUN/log" "$folder/$(hostname)-$(date -u +%Y%m%dT%H%M%S).log" || true
  fi
  echo "$status" >"$RUN/exit"
}

start() {
  local tries
  if alive; then
    say "$(hostname): runs already"
    return
  fi
  check_bucket "$@"
  mkdir -p "$RUN"
  rm -f "$RUN/pid" "$RUN/exit" "$RUN/stopped"
  { date -u; printf ' %q' "$@"; echo; } >>"$RUN/log"
  # Its own session, and no terminal: a lost connection does not end it.
  setsid nohup bash "$ROOT/launch/tpu_worker.sh" run "$@" >>"$RUN/log" 2>&1 </dev/null &
  for tries in {1..100}; do
    if [ -f "$RUN/pid" ]; then
      say "$(hostname): started"
      return
    fi
    sleep 0.1
  done
  die "$(hostname): the training did not start after $tries tries; see $RUN/log."
}

status() {
  local state=idle
  if alive; then
    state=running
  elif [ -f "$RUN/stopped" ]; then
    state=stopped
  elif [ -f "$RUN/exit" ]; then
    state="ended $(cat "$RUN/exit")"
  elif [ -f "$RUN/pid" ]; then
    state=lost # Killed with its launcher, as by a reboot.
  fi
  echo "fspo-worker $(hostname) $state"
}

halt() {
  local child deadline=$((SECONDS + $1))
  if ! alive; then return; fi
  read -r _ child <"$RUN/pid"
  kill -TERM "$child" 2>/dev/null || true
  while alive; do
    if [ "$SECONDS" -ge "$deadline" ]; then kill -KILL "$child" 2>/dev/null || true; fi
    sleep 0.2
  done
}

why() {
  case $(status) in
    *" ended 0" | *" running" | *" idle") ;;
    *) status; tail -n 25 "$RUN/log" ;;
  esac
}

command=${1:-}
if [ $# -gt 0 ]; then shift; fi
case $command in
  -h | --help) usage ;;
  install) install "${1:-tpu}" ;;
  start) start "$@" ;;
  run) run "$@" ;;
  status) status ;;
  stop) mkdir -p "$RUN"; touch "$RUN/stopped"; halt "${1:-120}"; status ;;
  halt) halt "${1:-120}"; status ;;
  why) why ;;
  *) usage >&2; die "found '$command', expected one of the commands above." ;;
esac

#!/usr/bin/env bash
# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# Runs one fspo_jax run in several processes of this machine, as a pod's hosts would.
#
# Usage: bash launch/local_multiprocess.sh COUNT --config=FILE --workdir=DIR [--config.KEY=VALUE ...]
#
# COUNT processes share the run. Each has its devices: one CPU, or as many as
# XLA_FLAGS=--xla_force_host_platform_device_count says. Lines begin with the process's index. When
# one ends badly the others do too, within a minute; the same command, with any COUNT that fits the
# config, goes on from the last checkpoint. Ctrl-C and SIGTERM reach all of them.
# FSPO_VENV, PYTHON and FSPO_NEED_MB are about the environment it makes (see launch/common.sh).
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage; exit ;; esac
count=${1:-}
case $count in '' | *[!0-9]* | 0*) die "found COUNT '$count', expected a number of processes." ;; esac
shift
ensure_venv ""

port=$("$VENV/bin/python" -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
cd "$ROOT"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
pids=()
# shellcheck disable=SC2329  # the traps call it
forward() { for pid in "${pids[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done; }
trap 'forward TERM' TERM
trap 'forward INT' INT
for ((i = 0; i < count; i++)); do
  "$VENV/bin/python" -u -m fspo_jax.main --distributed="127.0.0.1:$port,$i,$count" "$@" \
    > >(sed -u "s/^/[$i] /") 2>&1 &
  pids+=($!)
done

status=0
running=("${pids[@]}")
while [ "${#running[@]}" -gt 0 ]; do
  left=()
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      left+=("$pid")
      continue
    fi
    code=0
    wait "$pid" || code=$?
    if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then status=$code; fi
  done
  running=(${left[@]+"${left[@]}"})
  sleep 0.2
done
exit "$status"

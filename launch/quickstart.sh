#!/usr/bin/env bash
# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# Runs all of fspo_jax end to end on this machine: data, training, evaluation and a report.
#
# Usage: bash launch/quickstart.sh [WORKDIR] [--config.KEY=VALUE ...]
#
# WORKDIR is where the run goes (default: runs/quickstart in the repository). What is done there is
# kept: after Ctrl-C the same command goes on. The rest is passed on, such as --config.seed=1.
# Works from any folder. The first time, it makes a virtual environment and installs the packages;
# FSPO_VENV, PYTHON and FSPO_NEED_MB say where, with what and how (see launch/common.sh).
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

workdir=$ROOT/runs/quickstart
if [ $# -gt 0 ]; then
  case $1 in
    -h | --help) usage; exit ;;
    -*) ;; # Only options: they all go to the run.
    *) workdir=$1; shift ;;
  esac
fi
case $workdir in /*) ;; *) workdir=$PWD/$workdir ;; esac

mkdir -p "$workdir" || die "cannot make WORKDIR $workdir, for the reason above."
probe=$(mktemp "$workdir/.probe.XXXXXX") || die "cannot write to WORKDIR $workdir."
rm -f "$probe"

RESUME="the same command goes on from there"
ensure_venv ""

say "running experiments/quickstart.py in $workdir"
start=$SECONDS
status=0
cd "$ROOT"
"$VENV/bin/python" -m fspo_jax.main --config=experiments/quickstart.py --workdir="$workdir" "$@" ||
  status=$?
if [ "$status" -ne 0 ]; then
  printf 'fspo_jax: error: the run failed (exit code %s), for the reason above.\n' "$status" >&2
  exit "$status"
fi
say "done in $((SECONDS - start)) s"
say "report:  $workdir/report/report.md"
say "results: $workdir/results.json"

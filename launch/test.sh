#!/usr/bin/env bash
# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# Checks the code: ruff's lint and format, then the tests.
#
# Usage: bash launch/test.sh [PYTEST ARGUMENT ...]
#
# Paths are relative to the repository: bash launch/test.sh tests/launch -m "not slow".
# FSPO_TEST_WORKERS is the number of test processes (default: 2; 0 for none but this one).
# FSPO_VENV, PYTHON and FSPO_NEED_MB are about the environment it makes (see launch/common.sh);
# an environment that is active is not used.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage; exit ;; esac
ensure_venv dev

cd "$ROOT"
"$VENV/bin/python" -m ruff check
"$VENV/bin/python" -m ruff format --check

export JAX_PLATFORMS=cpu
# Most of the tests' time is XLA's compilation, and it is the same every time.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$ROOT/.cache/jax}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5
# A file's tests share what they compile, so they stay in one process.
"$VENV/bin/python" -m pytest -c tests/pytest.ini --rootdir="$ROOT" \
  -n "${FSPO_TEST_WORKERS:-2}" --dist loadfile --durations=20 "$@"

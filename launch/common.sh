# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the launch scripts share; sourced, never run. Sets ROOT, the repository, and VENV.
#
#   FSPO_VENV     the virtual environment to use (default: .venv in the repository). Made when it is
#                 missing, kept, and used again. An environment that is active is left alone.
#   PYTHON        the Python, 3.11 or newer, to make it with (default: the first usable one of
#                 python3.13, python3.12, python3.11, python3).
#   FSPO_NEED_MB  the free disk space, in MB, that an installation asks for (default: 2500).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${FSPO_VENV:-$ROOT/.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac

say() { printf 'fspo_jax: %s\n' "$*"; }
die() { printf 'fspo_jax: error: %s\n' "$*" >&2; exit 1; }

# Waits for the child $1, whatever signals come meanwhile, and sets `status` to its exit code.
wait_out() {
  local late=0
  while :; do # A signal ends `wait`, not the child.
    wait "$1" && status=0 || status=$?
    kill -0 "$1" 2>/dev/null || break
  done
  # Of a child that ends as a signal comes, bash says the signal; asked again it may know better, or
  # have lost the code (-1, 127). Then it is the signal's, as of one that was ended by it.
  wait "$1" 2>/dev/null || late=$?
  # shellcheck disable=SC2034 # Of those that source this.
  case $late in -1 | 127) ;; *) status=$late ;; esac
}

# Prints the comment at the top of the running script, below the licence.
usage() { awk 'NR > 3 { if (!sub(/^# ?/, "")) exit; print }' "$0"; }

# A script says in RESUME how to go on after Ctrl-C.
trap 'echo >&2; say "stopped${RESUME:+; $RESUME}" >&2; exit 130' INT

# Sets PY to a Python that is new enough and can make virtual environments.
find_python() {
  local candidate version minor found=""
  set -- python3.13 python3.12 python3.11 python3
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; fi
  for candidate in "$@"; do
    version=$("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null) || continue
    minor=${version#*.}
    minor=${minor%%.*}
    if [ "${version%%.*}" -lt 3 ] || [ "$minor" -lt 11 ]; then
      found="$found; $candidate is $version"
    elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      found="$found; $candidate is $version but lacks the venv module"
      found="$found (on Debian and Ubuntu: apt install python3.$minor-venv)"
    else
      PY=$candidate
      return
    fi
  done
  if [ -z "$found" ]; then found="; none of them runs"; fi
  die "needs Python 3.11 or newer. Looked for $*${found}. Install one, or set PYTHON to its path."
}

# Fails unless the file system that is to hold VENV has room for an installation.
check_disk() {
  local place=$VENV free need=${FSPO_NEED_MB:-2500}
  until [ -d "$place" ]; do place=$(dirname "$place"); done
  free=$(df -Pk "$place" | awk 'NR == 2 { print int($4 / 1024) }')
  if [ "$free" -lt "$need" ]; then
    die "an installation needs $need MB of disk, and $place has $free MB free. Make room, or set" \
      "FSPO_VENV to a folder on another disk (FSPO_NEED_MB changes the limit)."
  fi
}

# Ends with what the end of pip's log ($1) means.
die_of_pip() {
  local why="pip failed, for the reason above"
  if grep -q 'No space left on device' "$1"; then
    why="the disk is full"
  elif grep -qE 'from versions: none|[Cc]onnection|Max retries' "$1"; then
    why="the package index could not be reached: is there a network, and does it take a proxy"
    why="$why (HTTPS_PROXY) or a mirror (PIP_INDEX_URL)?"
  elif grep -q 'No matching distribution' "$1"; then
    why="the package index has no build of a package for this Python and system; try another PYTHON"
  fi
  tail -n 12 "$1" >&2
  die "$why (the whole log: $1)"
}

# Makes VENV where needed and installs fspo_jax into it, with the extra $1 unless that is empty.
# A stamp says what was installed, so that a second call does nothing.
ensure_venv() {
  local extra=$1 start=$SECONDS key pid
  local busy=$VENV/fspo-installing log=$VENV/fspo-install.log stamp=$VENV/fspo-installed
  if [ -e "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
    die "$VENV is not a virtual environment. Remove it, or set FSPO_VENV to another folder."
  fi
  if [ -f "$busy" ]; then
    pid=$(cat "$busy")
    if kill -0 "$pid" 2>/dev/null; then
      die "process $pid is installing into $VENV. Wait for it (if it is not, remove $busy)."
    fi
    say "an earlier installation was cut off; making the environment anew"
  elif [ -f "$VENV/pyvenv.cfg" ] && "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    key="$(cksum <"$ROOT/setup.py") $("$VENV/bin/python" -V) $ROOT"
    if [ "$(cat "$stamp${extra:+-$extra}" 2>/dev/null)" = "$key" ]; then return; fi
  fi

  check_disk
  if [ -z "${key:-}" ]; then
    find_python
    say "making a virtual environment in $VENV with $PY"
    "$PY" -m venv --clear "$VENV" || die "could not make $VENV, for the reason above."
    key="$(cksum <"$ROOT/setup.py") $("$VENV/bin/python" -V) $ROOT"
  fi
  say "installing fspo_jax${extra:+[$extra]} and what it needs into $VENV (a minute or a few)"
  echo $$ >"$busy"
  if ! (cd "$ROOT" && "$VENV/bin/python" -m pip install -e ".${extra:+[$extra]}") >"$log" 2>&1; then
    rm -f "$busy"
    die_of_pip "$log"
  fi
  echo "$key" | tee "$stamp" ${extra:+"$stamp-$extra"} >/dev/null
  rm -f "$busy"
  say "installed in $((SECONDS - start)) s"
}

# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the launchers for clouds and clusters share; sourced, never run. Sources common.sh.
#
#   FSPO_POLL_SECONDS  seconds between two looks at what is waited for (default: 30).

# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# shellcheck disable=SC2034 # Of those that source this.
POLL=${FSPO_POLL_SECONDS:-30}
DRY_RUN="" # Anything here: commands are printed, and nothing is done.
FLAGS=()   # Of the training, as `training_flags` leaves them.

# Prints a command so that it can be pasted into a shell.
quoted() {
  local word out=""
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./:=,@%+-]* | "") word="'${word//\'/\'\\\'\'}'" ;;
    esac
    out="$out $word"
  done
  printf '%s\n' "${out# }"
}

# Runs a command, or only prints it.
act() {
  if [ -n "$DRY_RUN" ]; then quoted "$@"; else "$@"; fi
}

# Fails unless the program $1 is there; $2 says where to get it.
need() {
  if [ -z "$DRY_RUN" ] && ! command -v "$1" >/dev/null; then
    die "needs $1 on the PATH. $2"
  fi
}

# Prints the value of flag $1 among the rest of the arguments: the last one, as the run reads it.
flag_value() {
  local name=$1 found="" word
  shift
  for word in "$@"; do
    case $word in "$name="*) found=${word#*=} ;; esac
  done
  printf '%s\n' "$found"
}

# Checks the flags of the training before anything is paid for, and sets FLAGS to them, with the one
# by which its processes find each other.
training_flags() {
  local config workdir
  config=$(flag_value --config "$@")
  workdir=$(flag_value --workdir "$@")
  if [ -z "$config" ] || [ -z "$workdir" ]; then
    die "found no --config=FILE and --workdir=DIR of the training, expected both after '--'."
  fi
  if [ ! -f "$ROOT/${config%%:*}" ]; then
    die "--config=$config: no such file in $ROOT, which is what is sent."
  fi
  FLAGS=("$@")
  if [ -z "$(flag_value --distributed "$@")" ]; then FLAGS+=(--distributed=auto); fi
}

# Fails unless $1 is a --name that clouds take.
need_name() {
  case $1 in
    "" | *[!a-z0-9-]* | [!a-z]* | *-)
      die "--name='$1': expected lower-case letters, digits and '-'." ;;
  esac
}

# Fails unless the value $2 of option $1 is a number, of at least $3.
need_count() {
  case $2 in "" | *[!0-9]*) die "$1=$2: expected a number." ;; esac
  if [ "$2" -lt "$3" ]; then die "$1=$2: expected a number of at least $3."; fi
}

# Fails unless the work directory of the training outlives the machines.
need_bucket() {
  case $(flag_value --workdir "$@") in
    gs://?*) ;;
    *) die "--workdir=$(flag_value --workdir "$@"): expected gs://BUCKET/FOLDER; other disks go" \
      "with the machines." ;;
  esac
}

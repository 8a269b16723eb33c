#!/usr/bin/env bash
# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
# Trains on a slice of a Cloud TPU pod: asks for it, sets it up, runs, and gives it back.
#
# Usage: bash launch/tpu_pod.sh run --name=NAME --zone=ZONE --type=TYPE [OPTION ...] -- \
#          --config=experiments/X.py --workdir=gs://BUCKET/FOLDER [--config.KEY=VALUE ...]
#        bash launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [OPTION ...] [-- FLAG ...]
#
#   run      all of the next three, and watches until the training has ended: a slice that was
#            preempted is deleted and asked for anew, a failed run is started again, and both go on
#            from the last checkpoint. Deletes the slice at the end. Ctrl-C ends only the watching.
#   create   asks for the slice (a queued resource), and waits until it is there
#   setup    copies this tree to all workers (hosts), without what git ignores, and installs it
#   start    starts the training on all workers; it needs no connection to go on
#   status   of the request, the slice and the training on every worker
#   logs     follows the log of one worker (--worker=0)
#   stop     has the training save and end; the slice stays, and is billed
#   delete   deletes the slice and the request; nothing is billed after it
#
#   --name=NAME       of the slice and its request; the same name is the same run
#   --zone=ZONE       such as us-west4-a; --project=PROJECT if it is not gcloud's own
#   --type=TYPE       v5e-64, v6e-64 (chips), v4-64, v5p-64 (cores: half as many chips)
#   --slices=N        so many slices, one training over all of them (default: 1)
#   --spot            cheaper, and may be preempted; or --reserved; without either, on demand
#   --wait=DURATION   gives up when there is no slice after so long, such as 6h (default: never)
#   --service_account=EMAIL   what the training reads and writes gs:// as
#   --create_flag=FLAG        one more flag of `gcloud ... queued-resources create`; repeatable
#   --runtime=VERSION         the image (default: by type)
#   --extra=EXTRA             of setup.py, to install on the workers (default: tpu)
#   --env=KEY=VALUE           in the environment of the training, and in its log; repeatable
#   --max_failures=N          `run` gives up after so many failures in a row (default: 3); what has
#                             lasted FSPO_STEADY_SECONDS (1800) starts the count again
#   --keep                    `run` leaves the slice there (and billed) at the end
#   --internal_ip             connects from a machine in the same network
#   --worker=I                whose log `logs` follows
#   --dry_run                 prints the commands of a first call, and does nothing
#
# Every command can be called again; what is done, is not done twice. The slice is billed from
# ACTIVE until it is deleted, whatever runs on it. Where a worker has failed and others have not
# ended after FSPO_UNEVEN_POLLS (10) looks, `run` ends them. FSPO_POLL_SECONDS: see launch/cloud.sh.
set -euo pipefail
# shellcheck source=launch/cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
# shellcheck source=launch/tpu_slice.sh
. "$ROOT/launch/tpu_slice.sh"

# Exit codes of the training. 0: done. 2: refused before any compute, and would be again.
# Anything else (a signal, a failed host, a crash): worth another try.
REFUSED=2
# So many looks at workers that outlive failed ones, before they are ended too.
UNEVEN_POLLS=${FSPO_UNEVEN_POLLS:-10}
WORKER="bash fspo_jax/launch/tpu_worker.sh"

name="" zone="" project="" type="" runtime="" slices=1 tier="" wait_for="" account="" extra=tpu
max_failures=3 keep="" worker=0
where=() create_flags=() ssh_flags=() environment=()

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --name=*) name=${1#*=} ;;
      --zone=*) zone=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --type=*) type=${1#*=} ;;
      --slices=*) slices=${1#*=} ;;
      --spot | --reserved)
        if [ -n "$tier" ]; then die "found $tier and $1, expected one of them."; fi
        tier=$1
        ;;
      --wait=*) wait_for=${1#*=} ;;
      --service_account=*) account=${1#*=} ;;
      --create_flag=*) create_flags+=("${1#*=}") ;;
      --runtime=*) runtime=${1#*=} ;;
      --extra=*) extra=${1#*=} ;;
      --env=?*=*) environment+=("${1#*=}") ;;
      --max_failures=*) max_failures=${1#*=} ;;
      --keep) keep=yes ;;
      --internal_ip) ssh_flags+=(--internal-ip) ;;
      --worker=*) worker=${1#*=} ;;
      --dry_run) DRY_RUN=yes ;;
      --) shift; FLAGS=("$@"); return ;;
      *) die "found '$1'; --help lists the options. Flags of the training come after '--'." ;;
    esac
    shift
  done
}

check_options() {
  need_name "$name"
  if [ -z "$zone" ]; then die "found no --zone, such as --zone=us-west4-a."; fi
  need_count --slices "$slices" 1
  need_count --max_failures "$max_failures" 0
  where=(--zone="$zone" ${project:+--project="$project"})
  # A dead host is noticed, rather than waited for.
  ssh_flags+=(--ssh-flag=-oConnectTimeout=20 --ssh-flag=-oServerAliveInterval=15)
  nodes=("$name")
  if [ "$slices" -gt 1 ]; then
    nodes=()
    local i
    for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
  fi
}

fail() { printf 'fspo_jax: error: %s\n' "$*" >&2; }

# Has an agent hold gcloud's key: without one, gcloud does not talk to several workers at a time.
hold_key() {
  local key=$HOME/.ssh/google_compute_engine held=0
  if [ -n "$DRY_RUN" ]; then quoted ssh-add "$key"; return; fi
  if [ -n "${key_is_held:-}" ] || [ ! -f "$key" ]; then return; fi
  ssh-add -l >/dev/null 2>&1 || held=$?
  if [ "$held" -eq 2 ]; then
    eval "$(ssh-agent -s)" >/dev/null
    agent=$SSH_AGENT_PID
  fi
  ssh-add -q "$key" </dev/null || die "ssh-add could not load $key, for the reason above."
  key_is_held=yes
}

# Runs a command on workers $1 (a number, or 'all') of all slices.
on_workers() {
  local node failed=0
  for node in "${nodes[@]}"; do
    tpus tpu-vm ssh "$node" "${where[@]}" --worker="$1" --command="$2" --quiet "${ssh_flags[@]}" ||
      failed=$?
  done
  return "$failed"
}

# Makes an archive of this tree: what git knows, and what is new and not ignored.
pack() {
  local listing=(git -C "$ROOT" ls-files -z --cached --others --exclude-standard)
  if [ -n "$DRY_RUN" ]; then
    echo "$(quoted "${listing[@]}") | $(quoted tar -C "$ROOT" -czf "$1" --null -T -)"
  elif "${listing[@]}" >"$scratch/listing" 2>/dev/null; then
    while IFS= read -r -d '' file; do # Files that were deleted are still listed.
      if [ -e "$ROOT/$file" ]; then printf '%s\0' "$file"; fi
    done <"$scratch/listing" | COPYFILE_DISABLE=1 tar -C "$ROOT" -czf "$1" --null -T -
  else
    tar -C "$ROOT" -czf "$1" --exclude=./.venv --exclude=./runs --exclude=./.cache .
  fi
}

setup() {
  local node tries archive=$scratch/fspo_jax.tgz new=fspo_jax.new
  for node in "${nodes[@]}"; do
    # One worker by itself, first: this makes gcloud's SSH key where there is none, and hands it to
    # the slice, whose hosts may not answer yet.
    for tries in {1..10}; do
      if tpus tpu-vm ssh "$node" "${where[@]}" --worker=0 --command=true --quiet "${ssh_flags[@]}"
      then break; fi
      if [ "$tries" -eq 10 ]; then
        fail "no SSH to $node: does a firewall rule admit port 22? If an organization forbids" \
          "external addresses, use --internal_ip from a machine in the same network."
        return 1
      fi
      sleep "$POLL"
    done
  done
  hold_key
  # Once: what `run` starts again is what it started first.
  if [ -n "$DRY_RUN" ] || [ ! -f "$archive" ]; then pack "$archive"; fi
  for node in "${nodes[@]}"; do
    tpus tpu-vm scp "$archive" "$node:fspo_jax.tgz" "${where[@]}" --worker=all --quiet \
      "${ssh_flags[@]/#--ssh-flag/--scp-flag}" ||
      { fail "could not copy the tree to $node, for the reason above."; return 1; }
  done
  on_workers all "! $WORKER status 2>/dev/null | grep -q ' running$' &&\
 rm -rf $new && mkdir $new && tar -xzf fspo_jax.tgz -C $new &&\
 rm -rf fspo_jax && mv $new fspo_jax && $WORKER install $extra" ||
    { fail "could not install on all workers (where the training runs, stop it first)."; return 1; }
}

start() {
  hold_key
  on_workers all "$WORKER start $(quoted ${environment[@]+"${environment[@]}"} "${FLAGS[@]}")" ||
    { fail "not all workers started. The slice is still there, and billed."; return 1; }
}

# Sums up what `tpu_worker.sh status` says of all workers, on standard input.
verdict() {
  awk -v refused="$REFUSED" '
    $1 == "fspo-worker" { n++; count[$3]++ }
    $1 == "fspo-worker" && $3 == "ended" { if ($4 == refused) no = 1; else if ($4 != 0) bad = 1 }
    END {
      if (!n) print "unknown"
      else if (count["running"] == n) print "running"
      else if (count["running"]) print (no || bad || count["lost"]) ? "uneven" : "running"
      else if (count["stopped"]) print "stopped"
      else if (no) print "refused"
      else if (count["idle"] == n) print "idle"
      else if (count["ended"] == n && !bad) print "done"
      else print "failed"
    }'
}

# Sets `outcome` to what the slice and its training are at now: running, uneven, done, refused,
# failed, stopped, idle, preempted, gone (deleted by someone), or unknown (no answer).
look() {
  local node
  state=$(request_state) || state=""
  case $state in
    ACTIVE) ;;
    NONE | DELETING) outcome=gone; return ;;
    "") outcome=unknown; return ;;
    *) outcome=preempted; return ;;
  esac
  for node in "${nodes[@]}"; do
    # The request may go on saying ACTIVE of a slice that was preempted.
    case $(node_state "$node" || true) in
      PREEMPTED | TERMINATED | STOPPED | NONE) outcome=preempted; return ;;
    esac
  done
  if on_workers all "$WORKER status" >"$scratch/status" 2>"$scratch/error"; then
    outcome=$(verdict <"$scratch/status")
  elif grep -q 'No such file' "$scratch/error"; then
    outcome=idle # Not set up.
  else
    outcome=unknown
  fi
}

# Looks until the training has ended in some way; sets `outcome`.
watch() {
  local last="" uneven=0
  while :; do
    look
    if [ "$outcome" != "$last" ]; then say "$(date -u +%H:%M:%S) $name: $outcome"; fi
    last=$outcome
    case $outcome in
      running | unknown) uneven=0 ;; # No answer is no reason to touch what may well be running.
      uneven)
        uneven=$((uneven + 1))
        if [ "$uneven" -ge "$UNEVEN_POLLS" ]; then
          on_workers all "$WORKER halt" >/dev/null || true
        fi
        ;;
      *) return ;;
    esac
    sleep "$POLL"
  done
}

# Ends `run`: shows why, gives the slice back, and exits with $1.
finish() {
  local seconds=$((SECONDS - ${since:-$SECONDS})) hours
  hours=$(awk -v s="$seconds" -v c="$chips" 'BEGIN { printf "%.2f", s * c / 3600 }')
  if [ "$1" -ne 0 ] && [ -n "${there:-}" ]; then
    on_workers all "$WORKER why" 2>/dev/null | head -n 100 >&2 || true
  fi
  if [ -n "$keep" ]; then say "--keep: $name is still there, and billed"; else delete; fi
  say "$hours chip-hours watched; results and logs: $(flag_value --workdir "${FLAGS[@]}")[-logs]"
  exit "$1"
}

run() {
  local failures=0 began
  RESUME="the training goes on, and the slice is billed; the same command watches again, and"
  RESUME="$RESUME 'delete' ends both"
  while :; do
    began=$SECONDS
    outcome=failed
    if create; then
      outcome=idle
      if [ -z "$DRY_RUN" ]; then hold_key; look; fi
      case $outcome in
        running | uneven | preempted | gone) ;;
        # What has ended is started again: a finished run only says so.
        *) if setup && start; then outcome=running; else outcome=failed; fi ;;
      esac
      if [ -n "$DRY_RUN" ]; then on_workers all "$WORKER status"; delete; return; fi
      if [ "$outcome" = failed ]; then
        look # It may have been preempted meanwhile.
        if [ "$outcome" != preempted ]; then
          on_workers all "$WORKER halt" || true
          outcome=failed
        fi
      else
        watch
      fi
    elif [ -n "$wait_for" ] && [ "$state" = FAILED ]; then
      say "no slice within $wait_for" >&2
      finish 1
    fi
    case $outcome in
      done) finish 0 ;;
      refused) say "the training was refused (exit code $REFUSED)" >&2; finish "$REFUSED" ;;
      stopped) die "the training was stopped. The slice is still there, and billed." ;;
      gone) die "the slice was deleted by someone; not asking for another." ;;
      preempted) say "the slice was preempted; asking for another"; delete; continue ;;
    esac
    if [ $((SECONDS - began)) -ge "${FSPO_STEADY_SECONDS:-1800}" ]; then failures=0; fi
    failures=$((failures + 1))
    if [ "$failures" -ge "$max_failures" ]; then
      say "failed $failures times in a row" >&2
      finish 1
    fi
    say "failed; trying again ($failures of at most $max_failures failures in a row)"
    sleep "$POLL"
  done
}

command=${1:-}
case $command in
  -h | --help) usage; exit ;;
  run | create | setup | start | status | logs | stop | delete) shift ;;
  *) die "found '$command', expected a command: run, create, setup, start, status, logs, stop," \
    "delete (--help says more)." ;;
esac
parse "$@"
check_options
need gcloud "It comes with the Google Cloud CLI: https://cloud.google.com/sdk/docs/install"
case $command in
  run | start) training_flags ${FLAGS[@]+"${FLAGS[@]}"}; need_bucket "${FLAGS[@]}" ;;
esac
scratch=${TMPDIR:-/tmp}
if [ -z "$DRY_RUN" ]; then scratch=$(mktemp -d); fi
trap 'if [ -z "$DRY_RUN" ]; then rm -rf "$scratch"; fi
  if [ -n "${agent:-}" ]; then kill "$agent"; fi' EXIT

case $command in
  run) run ;;
  create) create || exit 1 ;;
  setup) setup || exit 1 ;;
  start) start || exit 1 ;;
  status)
    hold_key
    tpus queued-resources describe "$name" "${where[@]}" --format="value(state.state)"
    on_workers all "$WORKER status"
    ;;
  logs)
    tpus tpu-vm ssh "${nodes[0]}" "${where[@]}" --worker="$worker" "${ssh_flags[@]}" \
      --command="tail -n 100 -F fspo_run/log"
    ;;
  stop) hold_key; on_workers all "$WORKER stop" ;;
  delete) delete ;;
esac

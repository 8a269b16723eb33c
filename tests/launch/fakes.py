# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A cloud of shell scripts: stands in for gcloud, and for other programs that cannot be had here.

Every fake appends its command line to `log`. The fake gcloud keeps a queued resource in files, and
its workers are folders: what is sent to them by ssh is run there, as their home.
"""

from collections.abc import Callable, Sequence
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

from tests.conftest import REPO

# The files of $FAKE, each with what it stands for:
#   plan     one line for each creation: the states that its request goes through; ACTIVE where none
#   states   the states still to come of the request that is there; the last one stays
#   node     the state of a node, where it is not what the request's says
#   refuse   what gcloud says instead of creating
#   offline  how many more times ssh fails
#   train    the training, a script, run by each worker in its home
GCLOUD = r"""
cd "$FAKE"
option() {
  local name=$1; shift
  for word in "$@"; do case $word in "$name="*) printf '%s' "${word#*=}"; return ;; esac; done
}
missing() { echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2; exit 1; }
request() {
  [ -f states ] || missing
  read -r state <states
  if [ "$(wc -l <states)" -gt 1 ]; then sed -i 1d states; fi
}
end_all() {
  for file in workers/*/*/fspo_run/pid; do
    if [ -f "$file" ]; then kill -9 $(cat "$file") 2>/dev/null; fi
  done
  rm -rf workers
}
chosen() { # The homes of the workers that are asked for, of node $1.
  local worker; worker=$(option --worker "$@")
  if [ "$worker" = all ]; then echo workers/"$1"/*; else echo workers/"$1"/w"$worker"; fi
}

case "$1 $2 $3 $4" in
  "compute tpus queued-resources create")
    if [ -f refuse ]; then cat refuse >&2; exit 1; fi
    if [ -f states ]; then echo ALREADY_EXISTS >&2; exit 1; fi
    printf '%s\n' $(head -n 1 plan 2>/dev/null || echo ACTIVE) >states
    if [ -f plan ]; then sed -i 1d plan; fi
    option --accelerator-type "$@" >type
    rm -f node
    nodes=$(option --node-id "$@")
    if [ -z "$nodes" ]; then
      nodes=$(seq -f "$(option --node-prefix "$@")-%g" 0 $(($(option --node-count "$@") - 1)))
    fi
    for node in $nodes; do
      for host in w0 w1; do
        mkdir -p workers/$node/$host
        cp -r venv workers/$node/$host/fspo_venv
      done
    done ;;
  "compute tpus queued-resources describe")
    case $(option --format "$@") in
      *state*) request; echo "$state" ;;
      *acceleratorType*) cat type ;;
      *) echo "why it is so" ;;
    esac ;;
  "compute tpus queued-resources delete")
    [ -f states ] || missing
    rm states; end_all ;;
  "compute tpus tpu-vm describe")
    [ -f states ] && [ -d "workers/$5" ] || missing
    read -r state <states
    if [ -f node ]; then cat node; elif [ "$state" = ACTIVE ]; then echo READY; else missing; fi ;;
  "compute tpus tpu-vm ssh")
    if [ -s offline ]; then sed -i 1d offline; echo "no route to host" >&2; exit 255; fi
    mkdir -p "$HOME/.ssh"; touch "$HOME/.ssh/google_compute_engine"
    status=0
    for home in $(chosen "$5" "$@"); do
      (cd "$home" && HOME=$PWD bash -c "$(option --command "$@")") || status=$?
    done
    exit "$status" ;;
  "compute tpus tpu-vm scp")
    for home in $(chosen "${6%%:*}" "$@"); do cp "$5" "$home/${6#*:}"; done ;;
  "storage cp "*)
    if [ -f unwritable ]; then echo "HTTPError 403: no storage.objects.create" >&2; exit 1; fi
    to=bucket/${5#gs://}; mkdir -p "$(dirname "$to")"
    if [ "$4" = - ]; then cat >"$to"; else cp "$4" "$to"; fi ;;
  "container clusters list"*) if [ -f cluster ]; then cat cluster; fi ;;
esac
"""

# An environment's Python that takes a moment for the training, and succeeds at all else.
PYTHON = """#!/bin/sh
case "$*" in
  *fspo_jax.main*) exec sh "$FAKE/train" "$@" ;;
  -V) echo Python 3.12.1 ;;
esac
"""


# A training that goes on until it is told to save and end. Nothing of it outlives the test.
UNTIL_TOLD = (
  'trap "kill \\$!; echo saved; exit 143" TERM; sleep 60 >/dev/null 2>&1 & '
  'echo >"$FAKE/ready-$name"; wait'
)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
  """Waits until something is true, and fails when it does not become so."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


class Cloud:
  """The fakes on the PATH, and what they have been asked."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.home = folder / "home"
    self.bin = folder / "bin"
    for path in (self.home, self.bin, folder / "venv" / "bin"):
      path.mkdir(parents=True)
    # A small tree is sent faster than all of this one.
    self.root = folder / "repo"
    shutil.copytree(REPO / "launch", self.root / "launch")
    for name in ("setup.py", "experiments/quickstart.py"):
      (self.root / name).parent.mkdir(exist_ok=True)
      shutil.copy(REPO / name, self.root / name)
    python = folder / "venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    (folder / "venv" / "pyvenv.cfg").touch()
    self.add("gcloud", GCLOUD)
    self.add("ssh-add", "exit 0", log=False)
    self.add("hostname", 'basename "$(dirname "$HOME")"-"$(basename "$HOME")"', log=False)
    # pip is never reached, and the size of the disk does not matter.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FSPO_", "SLURM_"))}
    self.env = inherited | {
      "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
      "HOME": str(self.home),
      "FAKE": str(folder),
      "FSPO_POLL_SECONDS": "0.1",
      "FSPO_UNEVEN_POLLS": "2",
      "FSPO_NEED_MB": "1",
    }

  def add(self, name: str, body: str, log: bool = True) -> None:
    """Puts a program on the PATH."""
    # In one write: calls at the same time would come between a line and its end.
    first = 'printf -v line "%q " "$(basename "$0")" "$@"; printf "%s\\n" "$line" >>"$FAKE/log"\n'
    path = self.bin / name
    path.write_text("#!/bin/bash\n" + (first if log else "") + body)
    path.chmod(0o755)

  def write(self, name: str, text: str) -> None:
    (self.folder / name).write_text(text)

  def read(self, name: str) -> str:
    path = self.folder / name
    return path.read_text() if path.exists() else ""

  def train(self, *attempts: str) -> None:
    """What the training does at each attempt of a worker, in shell; the last one stays."""
    lines = [f"{i}) {body} ;;" for i, body in enumerate(attempts[:-1], start=1)]
    self.write(
      "train",
      'name=$(hostname); echo "$@" >>"$FAKE/flags"; env >"$FAKE/env"\n'
      'echo >>"$FAKE/attempts-$name"; n=$(wc -l <"$FAKE/attempts-$name" | tr -d " ")\n'
      f"case $n in {' '.join(lines)} *) {attempts[-1]} ;; esac\n",
    )

  def attempts(self) -> dict[str, int]:
    return {
      path.name.removeprefix("attempts-"): len(path.read_text().splitlines())
      for path in sorted(self.folder.glob("attempts-*"))
    }

  def ready(self) -> int:
    """How many trainings of UNTIL_TOLD can be told."""
    return len(list(self.folder.glob("ready-*")))

  @property
  def calls(self) -> list[list[str]]:
    return [shlex.split(line) for line in self.read("log").splitlines()]

  def count(self, *words: str) -> int:
    """How many calls have all these words."""
    return sum(set(words) <= set(call) for call in self.calls)

  def run(
    self, script: str, *args: str, timeout: float = 30, **env: str
  ) -> subprocess.CompletedProcess[str]:
    """Runs a script of launch/."""
    with self.popen(script, *args, **env) as process:
      try:
        out, err = process.communicate(timeout=timeout)
      except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

  def popen(self, script: str, *args: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
      ["bash", str(self.root / "launch" / script), *args],
      cwd=self.home,
      env=self.env | env,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      # Bash cannot trap what its parent ignores, as a background job's does.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

  def end(self) -> None:
    """Ends what the workers still run."""
    for file in self.folder.glob("workers/*/*/fspo_run/pid"):
      for pid in file.read_text().split():
        try:
          os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
          pass


def commands(out: str) -> Sequence[list[str]]:
  """The words of each line that a dry run has printed."""
  return [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]

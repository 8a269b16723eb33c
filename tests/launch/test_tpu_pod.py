# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/tpu_pod.sh and tpu_worker.sh against a fake gcloud, whose workers are real processes."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.launch import fakes

CONFIG = "--config=experiments/quickstart.py"
TRAINING = ("--", CONFIG, "--workdir=gs://bucket/run", "--config.data.path=it's here")
WHERE = ("--name=pod", "--zone=us-west4-a")
SLICE = (*WHERE, "--type=v5e-16", "--spot")
RUN = ("run", *SLICE, *TRAINING)
LAST = "--config.data.path=it's here --distributed=auto"


@pytest.fixture
def cloud(tmp_path):
  cloud = fakes.Cloud(tmp_path)
  cloud.train("exit 0")
  yield cloud
  cloud.end()


def kinds(cloud):
  """The calls of gcloud that change something, without the looks."""
  short = {"queued-resources": "", "tpu-vm": "", "compute": "", "tpus": ""}
  out = []
  for call in cloud.calls:
    verb = [word for word in call[1:5] if word not in short and not word.startswith("-")][0]
    command = next((w for w in call if w.startswith("--command=")), "")
    if verb == "ssh":
      verb = next(
        (w for w in ("install", "start", "status", "halt", "stop") if w in command), "ssh"
      )
    if verb not in ("describe", "status", "storage"):
      out.append(verb)
  return out


def test_dry_run_prints_every_command_and_does_nothing(cloud):
  done = cloud.run(
    "tpu_pod.sh", "run", *WHERE, "--project=p", "--type=v5e-16", "--dry_run", *TRAINING
  )
  assert done.returncode == 0, done.stderr
  assert not cloud.calls and not any(cloud.home.iterdir())
  lines = fakes.commands(done.stdout)
  where = ["--zone=us-west4-a", "--project=p"]
  tpus = ["gcloud", "compute", "tpus"]
  request = ["--node-id=pod", "--accelerator-type=v5litepod-16"]
  request += ["--runtime-version=v2-alpha-tpuv5-lite", "--async", "--quiet"]
  ssh = ["--ssh-flag=-oConnectTimeout=20", "--ssh-flag=-oServerAliveInterval=15"]
  assert lines[0] == [*tpus, "queued-resources", "create", "pod", *where, *request]
  assert lines[1] == [
    *[*tpus, "queued-resources", "describe", "pod", *where],
    "--format=value(state.state)",
  ]
  assert lines[2] == [*tpus, "tpu-vm", "describe", "pod", *where, "--format=value(state)"]
  # One worker before all of them, and the key with an agent.
  assert lines[3] == [
    *[*tpus, "tpu-vm", "ssh", "pod", *where, "--worker=0", "--command=true", "--quiet", *ssh]
  ]
  assert lines[4] == ["ssh-add", str(cloud.home / ".ssh" / "google_compute_engine")]
  assert lines[5][:3] == ["git", "-C", str(cloud.root)] and "tar" in lines[5]
  assert lines[6][3:5] == ["tpu-vm", "scp"] and "--worker=all" in lines[6]
  remote = [
    word.removeprefix("--command=")
    for line in lines
    for word in line
    if "--worker=all" in line and word.startswith("--command=")
  ]
  worker = ["bash", "fspo_jax/launch/tpu_worker.sh"]
  assert shlex.split(remote[0])[-4:] == [*worker, "install", "tpu"]
  assert shlex.split(remote[1]) == [*worker, "start", *TRAINING[1:], "--distributed=auto"]
  assert shlex.split(remote[2]) == [*worker, "status"]
  assert lines[-1] == [*[*tpus, "queued-resources", "delete", "pod", *where, "--force", "--quiet"]]


def test_run_trains_on_all_workers_and_gives_the_slice_back(cloud):
  cloud.write("plan", "CREATING WAITING_FOR_RESOURCES PROVISIONING ACTIVE\n")
  args = ("--env=LIBTPU_INIT_ARGS=--a=1 --b=2", "--service_account=a@b.c", "--wait=6h")
  done = cloud.run("tpu_pod.sh", "run", *SLICE, *args, *TRAINING)
  assert done.returncode == 0, done.stderr
  assert kinds(cloud) == ["create", "ssh", "scp", "install", "start", "delete"]
  (create,) = [call for call in cloud.calls if "create" in call]
  assert {"--spot", "--service-account=a@b.c", "--valid-until-duration=6h"} <= set(create)
  assert cloud.attempts() == {"pod-w0": 1, "pod-w1": 1}
  flags = f"-m fspo_jax.main {CONFIG} --workdir=gs://bucket/run {LAST}\n"
  assert cloud.read("flags") == 2 * flags
  assert "LIBTPU_INIT_ARGS=--a=1 --b=2\n" in cloud.read("env")
  assert "pod: WAITING_FOR_RESOURCES" in done.stdout and "16 chip-hours are billed" in done.stdout
  assert "is deleted; nothing of it is billed" in done.stdout
  # Beside the run's folder, which a run wants to itself.
  logs = sorted(p.name for p in (cloud.folder / "bucket" / "bucket" / "run-logs").iterdir())
  assert [name.split("-2")[0] for name in logs if name.endswith(".log")] == ["pod-w0", "pod-w1"]


@pytest.mark.parametrize("how", ["echo SUSPENDED >$FAKE/states", "echo PREEMPTED >$FAKE/node"])
def test_preempted_slice_is_deleted_and_asked_for_anew(cloud, how):
  cloud.train(f"{how}; exec sleep 30", "exit 0")
  done = cloud.run("tpu_pod.sh", *RUN)
  assert done.returncode == 0, done.stderr
  assert kinds(cloud) == 2 * ["create", "ssh", "scp", "install", "start", "delete"]
  assert cloud.attempts() == {"pod-w0": 2, "pod-w1": 2}
  assert "the slice was preempted; asking for another" in done.stdout


def test_refused_training_is_not_tried_again(cloud):
  cloud.train("echo unknown key; exit 2")
  done = cloud.run("tpu_pod.sh", *RUN)
  assert done.returncode == 2
  assert cloud.attempts() == {"pod-w0": 1, "pod-w1": 1}
  assert "unknown key" in done.stderr and "was refused (exit code 2)" in done.stderr
  assert kinds(cloud)[-1] == "delete"


def test_failures_in_a_row_end_it(cloud):
  cloud.train("exit 134")
  done = cloud.run("tpu_pod.sh", "run", *SLICE, "--max_failures=2", "--keep", *TRAINING)
  assert done.returncode == 1
  assert cloud.attempts() == {"pod-w0": 2, "pod-w1": 2}
  assert "failed 2 times in a row" in done.stderr
  assert "delete" not in kinds(cloud) and "still there, and billed" in done.stdout


def test_a_run_that_lasted_is_no_failure_in_a_row(cloud):
  cloud.train("exit 1", "exit 1", "exit 0")
  done = cloud.run(
    "tpu_pod.sh", "run", *SLICE, "--max_failures=2", *TRAINING, FSPO_STEADY_SECONDS="0"
  )
  assert done.returncode == 0, done.stderr
  assert cloud.attempts() == {"pod-w0": 3, "pod-w1": 3}
  assert cloud.count("create") == 1 and cloud.count("delete") == 1


def test_training_that_is_lost_with_its_launcher_is_started_again(cloud):
  cloud.train("kill -9 $PPID; exit 1", "exit 0")  # As by a reboot: nobody notes how it ended.
  done = cloud.run("tpu_pod.sh", *RUN)
  assert done.returncode == 0, done.stderr
  assert cloud.attempts() == {"pod-w0": 2, "pod-w1": 2}


def test_workers_that_outlive_a_failed_one_are_ended_and_all_start_again(cloud):
  cloud.train(f"case $name in *w0) exit 134 ;; esac; {fakes.UNTIL_TOLD}", "exit 0")
  done = cloud.run("tpu_pod.sh", *RUN)
  assert done.returncode == 0, done.stderr
  assert "pod: uneven" in done.stdout and "halt" in kinds(cloud)
  assert cloud.attempts() == {"pod-w0": 2, "pod-w1": 2}
  assert cloud.count("create") == 1


def test_what_is_there_is_used(cloud):
  assert cloud.run("tpu_pod.sh", "create", *SLICE).returncode == 0
  assert cloud.run("tpu_pod.sh", "create", *SLICE).returncode == 0
  assert cloud.run("tpu_pod.sh", "setup", *WHERE).returncode == 0
  assert kinds(cloud) == ["create", "ssh", "scp", "install"]
  cloud.train("until [ -e $FAKE/end ]; do sleep 0.05; done")
  assert cloud.run("tpu_pod.sh", "start", *WHERE, *TRAINING).returncode == 0
  again = cloud.run("tpu_pod.sh", "start", *WHERE, *TRAINING)
  assert again.returncode == 0 and "pod-w0: runs already" in again.stdout
  # A tree under a running training is left alone.
  setup = cloud.run("tpu_pod.sh", "setup", *WHERE)
  assert setup.returncode == 1 and "stop it first" in setup.stderr
  status = cloud.run("tpu_pod.sh", "status", *WHERE)
  assert status.stdout.splitlines() == [
    "ACTIVE",
    "fspo-worker pod-w0 running",
    "fspo-worker pod-w1 running",
  ]
  look = ("ssh", "--command=bash fspo_jax/launch/tpu_worker.sh status")
  before = cloud.count(*look)
  with cloud.popen("tpu_pod.sh", *RUN) as watching:
    fakes.wait_for(lambda: cloud.count(*look) >= before + 2)
    cloud.write("end", "")
    out, err = watching.communicate(timeout=30)
  assert watching.returncode == 0, err
  assert cloud.attempts() == {"pod-w0": 1, "pod-w1": 1}
  assert kinds(cloud)[-1] == "delete" and cloud.count("create") == 1
  gone = cloud.run("tpu_pod.sh", "delete", *WHERE)
  assert gone.returncode == 0 and cloud.count("delete") == 1


def test_training_needs_no_connection(cloud):
  cloud.train("exec sleep 60")
  cloud.run("tpu_pod.sh", "create", *SLICE)
  cloud.run("tpu_pod.sh", "setup", *WHERE)
  cloud.run("tpu_pod.sh", "start", *WHERE, *TRAINING)
  files = list(cloud.folder.glob("workers/*/*/fspo_run/pid"))
  assert len(files) == 2
  for file in files:
    wrapper, child = map(int, file.read_text().split())
    assert os.getsid(child) == wrapper != os.getsid(0)


def test_what_is_sent_is_what_git_knows_and_what_is_new(cloud):
  git = ["git", "-C", str(cloud.root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
  (cloud.root / ".gitignore").write_text("/runs/\n")
  (cloud.root / "deleted").touch()
  for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
    subprocess.run([*git, *command], check=True, env=cloud.env)
  (cloud.root / "deleted").unlink()
  (cloud.root / "runs").mkdir()
  (cloud.root / "runs" / "big").touch()
  (cloud.root / "new file").touch()
  cloud.run("tpu_pod.sh", "create", *SLICE)
  done = cloud.run("tpu_pod.sh", "setup", *WHERE)
  assert done.returncode == 0, done.stderr
  for worker in ("w0", "w1"):
    tree = cloud.folder / "workers" / "pod" / worker / "fspo_jax"
    found = {path.name for path in tree.iterdir()}
    assert found == {".gitignore", "setup.py", "launch", "experiments", "new file"}


def test_lost_connections_do_no_harm(cloud):
  cloud.train("until [ -e $FAKE/end ]; do sleep 0.05; done")
  with cloud.popen("tpu_pod.sh", *RUN) as watching:
    fakes.wait_for(lambda: cloud.attempts() == {"pod-w0": 1, "pod-w1": 1})
    cloud.write("offline", 5 * "x\n")
    fakes.wait_for(lambda: not cloud.read("offline"))
    cloud.write("end", "")
    out, err = watching.communicate(timeout=30)
  assert watching.returncode == 0, err
  assert "pod: unknown" in out
  assert cloud.attempts() == {"pod-w0": 1, "pod-w1": 1}
  assert "halt" not in kinds(cloud)


def test_stop_has_the_training_save_and_nobody_starts_it_again(cloud):
  cloud.train(fakes.UNTIL_TOLD)
  with cloud.popen("tpu_pod.sh", *RUN) as watching:
    fakes.wait_for(lambda: cloud.ready() == 2)
    stop = cloud.run("tpu_pod.sh", "stop", *WHERE)
    out, err = watching.communicate(timeout=30)
  assert stop.stdout.splitlines() == ["fspo-worker pod-w0 stopped", "fspo-worker pod-w1 stopped"]
  assert watching.returncode == 1 and "the training was stopped" in err
  assert cloud.attempts() == {"pod-w0": 1, "pod-w1": 1}
  assert "delete" not in kinds(cloud)
  log = (cloud.folder / "workers" / "pod" / "w0" / "fspo_run" / "log").read_text()
  assert "saved\n" in log and "ended with exit code 143" in log


@pytest.mark.parametrize("code", [143, 0])
def test_training_that_a_shutdown_ended_says_itself_whether_it_is_done(cloud, code):
  # Not while the signal is handled: bash may lose the code of what ends then.
  cloud.train(fakes.UNTIL_TOLD.replace("exit 143", f"sleep 0.5; exit {code}"))
  home = cloud.home
  shutil.copytree(cloud.folder / "venv", home / "fspo_venv")
  assert cloud.run("tpu_worker.sh", "start", *TRAINING[1:]).returncode == 0
  pids = list(map(int, (home / "fspo_run" / "pid").read_text().split()))
  fakes.wait_for(cloud.ready)
  for pid in pids:
    os.kill(pid, signal.SIGTERM)
  fakes.wait_for((home / "fspo_run" / "exit").exists)
  status = cloud.run("tpu_worker.sh", "status")
  assert status.stdout.endswith(f" ended {code}\n")
  assert "saved\n" in (home / "fspo_run" / "log").read_text()


def test_a_training_that_does_not_end_is_killed(cloud):
  cloud.train("trap '' TERM; echo $$ >$FAKE/pid-$name; while :; do sleep 0.1; done")
  for command in (("create", *SLICE), ("setup", *WHERE), ("start", *WHERE, *TRAINING)):
    assert cloud.run("tpu_pod.sh", *command).returncode == 0
  home = cloud.folder / "workers" / "pod" / "w0"
  fakes.wait_for(lambda: cloud.read("pid-pod-w0"))
  script = home / "fspo_jax" / "launch" / "tpu_worker.sh"
  done = cloud.run(str(script), "halt", "0", HOME=str(home))
  assert done.stdout == "fspo-worker pod-w0 ended 137\n"


def test_slice_that_someone_deletes_is_not_asked_for_again(cloud):
  cloud.train("rm -f $FAKE/states; exec sleep 30")
  done = cloud.run("tpu_pod.sh", *RUN)
  assert done.returncode == 1 and "deleted by someone" in done.stderr
  assert cloud.count("create") == 1


def test_several_slices(cloud):
  done = cloud.run("tpu_pod.sh", "run", *SLICE, "--slices=2", *TRAINING)
  assert done.returncode == 0, done.stderr
  (create,) = [call for call in cloud.calls if "create" in call]
  assert {"--node-count=2", "--node-prefix=pod"} <= set(create) and "--node-id=pod" not in create
  assert set(cloud.attempts()) == {"pod-0-w0", "pod-0-w1", "pod-1-w0", "pod-1-w1"}
  assert "32 chip-hours are billed" in done.stdout


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_dead_request_of_that_name_makes_way(cloud, state):
  cloud.write("states", f"{state}\n")
  done = cloud.run("tpu_pod.sh", "create", *SLICE)
  assert done.returncode == 0, done.stderr
  assert kinds(cloud) == ["delete", "create"]


def test_request_that_fails_is_given_up(cloud):
  cloud.write("plan", "WAITING_FOR_RESOURCES FAILED\nFAILED\n")
  done = cloud.run("tpu_pod.sh", "run", *SLICE, "--max_failures=2", *TRAINING)
  assert done.returncode == 1
  assert "why it is so" in done.stderr and "the request is FAILED" in done.stderr
  assert kinds(cloud) == ["create", "delete", "create", "delete"]


def test_no_slice_in_time_is_given_up(cloud):
  cloud.write("plan", "WAITING_FOR_RESOURCES FAILED\n")
  done = cloud.run("tpu_pod.sh", "run", *SLICE, "--wait=1h", *TRAINING)
  assert done.returncode == 1 and "no slice within 1h" in done.stderr
  assert kinds(cloud) == ["create", "delete"]


def test_worker_without_a_python_that_is_new_enough_gets_one(cloud):
  venv = cloud.folder / "venv"
  old = """case "$*" in
  *"uv python find"*) echo "$FAKE/bin/new-python" ;;
  *-m*) ;;
  *) echo 3.10.12 ;;
esac"""
  for name in ("python3.13", "python3.12", "python3.11", "python3"):
    cloud.add(name, old)
  new = f'case "$*" in *"-m venv"*) cp -r {venv}/. "$4" ;; *) echo 3.12.1 ;; esac'
  cloud.add("new-python", f'mkdir -p "$HOME/fspo_venv"; {new}')
  done = cloud.run("tpu_worker.sh", "install", "tpu")
  assert done.returncode == 0, done.stderr
  assert "getting one with uv" in done.stdout and "installing fspo_jax[tpu]" in done.stdout
  assert cloud.count("python3", "pip", "install", "uv") == 1
  assert cloud.count("python3", "uv", "python", "install", "3.12") == 1
  assert (cloud.home / "fspo_venv" / "fspo-installed-tpu").exists()
  before = len(cloud.calls)
  assert cloud.run("tpu_worker.sh", "install", "tpu").returncode == 0
  assert len(cloud.calls) == before


def test_slice_of_another_type_is_refused(cloud):
  cloud.run("tpu_pod.sh", "create", *SLICE)
  done = cloud.run("tpu_pod.sh", "create", *WHERE, "--type=v6e-8")
  assert done.returncode == 1
  assert "is there already, as v5litepod-16; asked for was v6e-8" in done.stderr


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("Quota limit 'TPUV5s' has been exceeded. Limit: 0", "has no quota for it in us-west4-a"),
    ("PERMISSION_DENIED: Cloud TPU API has not been used", "is tpu.googleapis.com enabled"),
    ("INVALID_ARGUMENT: accelerator type", "is there v5litepod-16 in us-west4-a?"),
    ("INTERNAL", "gcloud refused the request"),
  ],
)
def test_refused_request_is_explained(cloud, text, message):
  cloud.write("refuse", f"ERROR: {text}\n")
  done = cloud.run("tpu_pod.sh", "create", *SLICE)
  assert done.returncode == 1
  assert text in done.stderr and message in done.stderr


def test_bucket_that_workers_cannot_write_to(cloud):
  cloud.write("unwritable", "")
  done = cloud.run("tpu_pod.sh", "run", *SLICE, "--max_failures=1", *TRAINING)
  assert done.returncode == 1
  assert "pod-w0 cannot write to gs://bucket/run-logs" in done.stderr
  assert "roles/storage.objectAdmin" in done.stderr
  assert not cloud.attempts() and kinds(cloud)[-1] == "delete"


def test_ctrl_c_ends_the_watching_alone(cloud):
  cloud.train("exec sleep 60")
  with cloud.popen("tpu_pod.sh", *RUN) as watching:
    fakes.wait_for(lambda: len(cloud.attempts()) == 2)
    watching.send_signal(2)
    _, err = watching.communicate(timeout=30)
  assert watching.returncode == 130
  assert "the training goes on, and the slice is billed" in err
  assert cloud.run("tpu_pod.sh", "status", *WHERE).stdout.count("running") == 2


def test_logs_follow_one_worker(cloud):
  done = cloud.run("tpu_pod.sh", "logs", *WHERE, "--worker=3", "--dry_run")
  (line,) = fakes.commands(done.stdout)
  assert {"--worker=3", "--command=tail -n 100 -F fspo_run/log"} <= set(line)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((), "found '', expected a command"),
    (("destroy", *WHERE), "found 'destroy', expected a command"),
    (("create", "--zone=z", "--type=v5e-16"), "--name=''"),
    (("create", "--name=Pod", "--zone=z"), "--name='Pod'"),
    (("create", "--name=pod", "--type=v5e-16"), "found no --zone"),
    (("create", *WHERE), "--type=''"),
    (("create", *WHERE, "--type=h100-8"), "--type='h100-8'"),
    (("create", *WHERE, "--type=v5e-big"), "expected a number after the '-'"),
    (("create", *WHERE, "--type=tpu7x-8"), "use launch/gke_xpk.sh"),
    (("create", *SLICE, "--reserved"), "found --spot and --reserved"),
    (("create", *SLICE, "--slices=0"), "--slices=0"),
    (("create", *SLICE, "--sponsor"), "found '--sponsor'"),
    (("run", *SLICE), "found no --config=FILE and --workdir=DIR"),
    (("run", *SLICE, "--", CONFIG, "--workdir=/tmp/x"), "expected gs://BUCKET/FOLDER"),
    (("run", *SLICE, "--", "--config=no.py", "--workdir=gs://b/x"), "no such file"),
  ],
)
def test_what_is_refused_before_anything_is_asked(cloud, args, message):
  done = cloud.run("tpu_pod.sh", *args)
  assert done.returncode == 1
  assert message in done.stderr
  assert not cloud.calls


@pytest.mark.parametrize(
  ("kind", "chips", "image"),
  [
    ("v4-16", 8, "tpu-ubuntu2204-base"),
    ("v5p-16", 8, "v2-alpha-tpuv5"),
    ("v6e-16", 16, "v2-alpha-tpuv6e"),
  ],
)
def test_chips_and_image_of_a_type(cloud, kind, chips, image):
  done = cloud.run("tpu_pod.sh", "create", *WHERE, f"--type={kind}")
  assert f"{chips} chip-hours are billed every hour" in done.stdout
  assert cloud.count(f"--runtime-version={image}", f"--accelerator-type={kind}") == 1

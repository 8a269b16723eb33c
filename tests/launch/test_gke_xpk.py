# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/gke_xpk.sh against a fake xpk, kubectl, docker and gcloud."""

import pytest

from tests.launch import fakes

CONFIG = "--config=experiments/quickstart.py"
TRAINING = ("--", CONFIG, "--workdir=gs://bucket/run", "--config.data.path=it's here")
WHERE = ("--cluster=pods", "--project=p", "--zone=us-west4-a")
IMAGE = "us-west4-docker.pkg.dev/p/r/fspo_jax:1"
START = ("start", *WHERE, "--type=v5e-64", f"--image={IMAGE}")
XPK = ("--cluster=pods", "--project=p", "--zone=us-west4-a")
CREDENTIALS = (
  "gcloud container clusters get-credentials pods --location=us-west4 --project=p --quiet"
)

# `jobset` is the training that is there, with its final state, if it has one.
KUBECTL = """
cd "$FAKE"
case "$*" in
  *--output=name) if [ -f jobset ]; then echo jobset.jobset.x-k8s.io/fspo; fi ;;
  *jsonpath*) cat jobset ;;
esac
"""
DOCKER = "exit 0"
XPK_FAKE = """
cd "$FAKE"
case "$1 $2" in
  "workload create") : >jobset ;;
  "workload delete") rm jobset ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
  cloud = fakes.Cloud(tmp_path)
  cloud.add("kubectl", KUBECTL)
  cloud.add("docker", DOCKER)
  cloud.add("xpk", XPK_FAKE)
  return cloud


def of(cloud, program):
  return [call for call in cloud.calls if call[0] == program]


CREATE = [
  *["xpk", "workload", "create", "--workload=fspo", *XPK, "--tpu-type=v5litepod-64"],
  *["--num-slices=1", f"--docker-image={IMAGE}", "--max-restarts=50"],
  *["--restart-on-exit-codes=1,3-126", "--termination-grace-period-seconds=120"],
  f"--command=exec python -m fspo_jax.main {CONFIG} --workdir=gs://bucket/run"
  r" '--config.data.path=it'\''s here' --distributed=auto",
]


def test_dry_run_prints_the_commands_and_does_nothing(cloud):
  done = cloud.run("gke_xpk.sh", *START, "--dry_run", *TRAINING)
  assert done.returncode == 0, done.stderr
  look = ["kubectl", "get", "jobset", "fspo", "--ignore-not-found", "--output=name"]
  assert fakes.commands(done.stdout) == [CREDENTIALS.split(), look, CREATE]
  for command in ("cluster", "image", "status", "logs", "delete", "delete_cluster"):
    args = ("--type=v6e-8", "--spot", f"--image={IMAGE}", "--dry_run")
    done = cloud.run("gke_xpk.sh", command, *WHERE, *args)
    assert done.returncode == 0 and fakes.commands(done.stdout), done.stderr
  assert not cloud.calls and not any(cloud.home.iterdir())


def test_start_is_done_once(cloud):
  assert cloud.run("gke_xpk.sh", *START, *TRAINING).returncode == 0
  assert of(cloud, "xpk") == [CREATE]
  again = cloud.run("gke_xpk.sh", *START, *TRAINING)
  assert again.returncode == 0 and "fspo runs already" in again.stdout
  assert of(cloud, "xpk") == [CREATE]


@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_what_has_ended_is_started_again(cloud, state):
  cloud.write("jobset", state)
  done = cloud.run("gke_xpk.sh", *START, *TRAINING)
  assert done.returncode == 0, done.stderr
  assert f"has ended before ({state})" in done.stdout
  delete = ["xpk", "workload", "delete", "--workload=fspo", *XPK, "--force", "--quiet"]
  assert of(cloud, "xpk") == [delete, CREATE]


def test_delete_is_done_once(cloud):
  cloud.run("gke_xpk.sh", *START, *TRAINING)
  assert cloud.run("gke_xpk.sh", "delete", *WHERE).returncode == 0
  done = cloud.run("gke_xpk.sh", "delete", *WHERE)
  assert done.returncode == 0 and "are billed until 'delete_cluster'" in done.stdout
  assert [call[2] for call in of(cloud, "xpk")] == ["create", "delete"]
  done = cloud.run("gke_xpk.sh", "delete_cluster", *WHERE)
  assert done.returncode == 0 and "there is no pods" in done.stdout
  cloud.write("cluster", "pods\n")
  assert cloud.run("gke_xpk.sh", "delete_cluster", *WHERE).returncode == 0
  assert of(cloud, "xpk")[-1] == ["xpk", "cluster", "delete", *XPK]


def test_cluster_and_image(cloud):
  done = cloud.run(
    "gke_xpk.sh", "cluster", *WHERE, "--type=v5e-64", "--slices=2", "--reservation=res"
  )
  assert done.returncode == 0, done.stderr
  assert of(cloud, "xpk") == [
    [*["xpk", "cluster", "create", *XPK, "--tpu-type=v5litepod-64"]]
    + ["--num-slices=2", "--reservation=res"]
  ]
  assert cloud.run("gke_xpk.sh", "image", *WHERE, f"--image={IMAGE}").returncode == 0
  build, push = of(cloud, "docker")
  assert build[-1] == str(cloud.root) and f"--tag={IMAGE}" in build
  assert f"--file={cloud.root}/launch/Dockerfile" in build
  assert push == ["docker", "push", IMAGE]
  login = ["gcloud", "auth", "configure-docker", "us-west4-docker.pkg.dev", "--quiet"]
  assert of(cloud, "gcloud") == [login]


def test_logs_are_of_the_first_host(cloud):
  done = cloud.run("gke_xpk.sh", "logs", *WHERE, "--name=run")
  assert done.returncode == 0, done.stderr
  (call,) = of(cloud, "kubectl")
  (selector,) = [word for word in call if word.startswith("--selector=")]
  assert selector.removeprefix("--selector=").split(",") == [
    "jobset.sigs.k8s.io/jobset-name=run",
    "jobset.sigs.k8s.io/job-index=0",
    "batch.kubernetes.io/job-completion-index=0",
  ]


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((), "found '', expected a command"),
    (("start", "--cluster=c", "--zone=z"), "found no --project"),
    (("cluster", *WHERE, "--type=v5e-64"), "found no --spot"),
    (("cluster", *WHERE, "--spot"), "--type=''"),
    (("cluster", *WHERE, "--spot", "--flex"), "found --spot and --flex"),
    (("image", *WHERE, "--image=fspo_jax"), "--image='fspo_jax'"),
    (("logs", *WHERE, "--name=a_b"), "--name='a_b'"),
    (("logs", *WHERE, f"--name={'a' * 41}"), "at most 40 characters"),
    (("start", *WHERE, "--workdir=gs://b/x"), "found '--workdir=gs://b/x'"),
    ((*START, "--", CONFIG, "--workdir=/tmp/x"), "expected gs://BUCKET/FOLDER"),
  ],
)
def test_what_is_refused_before_anything_is_asked(cloud, args, message):
  done = cloud.run("gke_xpk.sh", *args)
  assert done.returncode == 1
  assert message in done.stderr
  assert not cloud.calls

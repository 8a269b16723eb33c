# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/slurm.sbatch: on a login node, and as the job, against fakes of Slurm's programs."""

import shutil

import pytest

from tests.launch import fakes

CONFIG = "--config=experiments/quickstart.py"
TRAINING = (CONFIG, "--workdir=/scratch/run")

# `queue` holds the jobs that are there. scancel passes its signal to the processes of the step.
SBATCH = 'echo 17 >>"$FAKE/queue"; echo "Submitted batch job 17"'
SQUEUE = 'if [ -f "$FAKE/queue" ]; then cat "$FAKE/queue"; fi'
SRUN = """
shift 2
"$@" & child=$!
echo $child >"$FAKE/step.new"; mv "$FAKE/step.new" "$FAKE/step"
wait $child
"""
SCANCEL = 'kill -TERM "$(cat "$FAKE/step")"'


@pytest.fixture
def cloud(tmp_path):
  cloud = fakes.Cloud(tmp_path)
  for name, body in {
    "sbatch": SBATCH,
    "squeue": SQUEUE,
    "srun": SRUN,
    "scancel": SCANCEL,
    "scontrol": "exit 0",
  }.items():
    cloud.add(name, body)
  shutil.copytree(tmp_path / "venv", tmp_path / "repo" / ".venv")
  cloud.train("exit 0")
  return cloud


def as_job(cloud, *args, **env):
  """The script as Slurm runs it: a copy, in the spool's folder, and told where it was submitted."""
  spool = cloud.folder / "spool"
  spool.mkdir(exist_ok=True)
  shutil.copy(cloud.root / "launch" / "slurm.sbatch", spool / "slurm_script")
  env = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": str(cloud.root)} | env
  return cloud.popen(str(spool / "slurm_script"), *args, **env)


def of(cloud, program):
  return [call for call in cloud.calls if call[0] == program]


def test_dry_run_prints_the_commands_and_does_nothing(cloud):
  done = cloud.run("slurm.sbatch", "--dry_run", "--nodes=4", "--", *TRAINING)
  assert done.returncode == 0, done.stderr
  sbatch, srun = fakes.commands(done.stdout)
  assert sbatch[0] == "sbatch" and "--dependency=singleton" in sbatch
  script = str(cloud.root / "launch" / "slurm.sbatch")
  assert sbatch[-4:] == ["--nodes=4", script, *TRAINING]
  python = str(cloud.root / ".venv" / "bin" / "python")
  assert srun == [
    *["srun", "--kill-on-bad-exit=0", "--wait=600", python, "-m", "fspo_jax.main", *TRAINING],
    "--distributed=auto",
  ]
  assert not cloud.calls and not (cloud.root / ".venv" / "fspo-installed").exists()


def test_submits_once_for_a_folder(cloud):
  done = cloud.run("slurm.sbatch", "--", *TRAINING)
  assert done.returncode == 0 and "Submitted batch job 17" in done.stdout
  assert (cloud.root / ".venv" / "fspo-installed-cuda").exists()
  again = cloud.run("slurm.sbatch", "--", CONFIG, "--workdir=/scratch/run/")
  assert again.returncode == 0 and "job 17 is in the queue" in again.stdout
  assert len(of(cloud, "sbatch")) == 1
  names = {word for call in of(cloud, "squeue") for word in call if word.startswith("--name=")}
  (name,) = names  # With and without the last '/'.
  assert f"--job-{name.removeprefix('--')}" in of(cloud, "sbatch")[0]


def test_job_trains_and_passes_the_exit_code_on(cloud):
  cloud.train("exit 3")
  with as_job(cloud, *TRAINING) as job:
    job.communicate(timeout=30)
  assert job.returncode == 3
  assert cloud.read("flags") == f"-m fspo_jax.main {' '.join(TRAINING)} --distributed=auto\n"
  assert not of(cloud, "scontrol")


def out_of_time(cloud, code=143, **env):
  # Not while the signal is handled: bash may lose the code of what ends then.
  cloud.train(fakes.UNTIL_TOLD.replace("exit 143", f"sleep 0.5; exit {code}"))
  with as_job(cloud, *TRAINING, **env) as job:
    fakes.wait_for(lambda: cloud.ready() and cloud.read("step"))
    job.send_signal(10)  # USR1, to the script alone.
    out, err = job.communicate(timeout=30)
  assert "saved" in out
  assert of(cloud, "scancel") == [["scancel", "--signal=TERM", "17"]]
  return job, err


@pytest.mark.parametrize("code", [143, 1])
def test_out_of_time_it_saves_and_queues_again(cloud, code):
  job, err = out_of_time(cloud, code)
  assert job.returncode == 0, err
  assert of(cloud, "scontrol") == [["scontrol", "requeue", "17"]]


def test_out_of_time_with_nothing_left_to_do_it_is_done(cloud):
  job, err = out_of_time(cloud, 0)
  assert job.returncode == 0, err
  assert not of(cloud, "scontrol")


def test_queues_again_only_so_often(cloud):
  job, err = out_of_time(cloud, FSPO_MAX_REQUEUES="3", SLURM_RESTART_COUNT="3")
  assert job.returncode == 1 and "queued again 3 times already" in err
  assert not of(cloud, "scontrol")


def test_scancel_and_preemption_wait_for_the_save(cloud):
  cloud.train(fakes.UNTIL_TOLD)
  with as_job(cloud, *TRAINING) as job:
    fakes.wait_for(lambda: cloud.ready() and cloud.read("step"))
    job.terminate()
    cloud.run(str(cloud.bin / "scancel"))
    out, _ = job.communicate(timeout=30)
  assert "saved" in out and job.returncode == 143
  assert not of(cloud, "scontrol")  # Slurm queues again what it has preempted; scancel is the end.


def test_job_does_not_know_the_repository(cloud):
  with as_job(cloud, *TRAINING, SLURM_SUBMIT_DIR=str(cloud.home)) as job:
    _, err = job.communicate(timeout=30)
  assert job.returncode == 1 and "is not the repository; submit from there" in err


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ((), "found no --config=FILE and --workdir=DIR"),
    (TRAINING, "found --config=experiments/quickstart.py before '--'"),
    (("4", "--", *TRAINING), "found '4'"),
    (("--", CONFIG, "--workdir=runs/x"), "expected a path that begins with /."),
    (("--", "--config=no.py", "--workdir=/x"), "no such file"),
  ],
)
def test_what_is_refused_before_anything_is_asked(cloud, args, message):
  done = cloud.run("slurm.sbatch", *args)
  assert done.returncode == 1
  assert message in done.stderr
  assert not cloud.calls

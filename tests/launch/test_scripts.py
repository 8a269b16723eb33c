# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The launch scripts say clearly why they cannot go on. No network is used."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

PYTHONS = ("python3.13", "python3.12", "python3.11", "python3")

# Stands in for an interpreter of some version, with or without what makes virtual environments.
FAKE_PYTHON = """#!/bin/sh
case "$*" in *ensurepip*) exit {ensurepip_status} ;; esac
echo {version}
"""


@pytest.fixture
def launch(repo, tmp_path):
  """Runs a script of launch/ from another folder, with a fresh environment's place in FSPO_VENV."""
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "FSPO_", "PYTHON"))}

  def run(script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
      ["bash", os.path.relpath(repo / "launch" / script, elsewhere), *args],
      cwd=elsewhere,
      env={**clean, "FSPO_VENV": str(tmp_path / "venv"), **env},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=120,
      # Bash cannot trap what its parent ignores, as a background job's does.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

  run.elsewhere = elsewhere
  run.venv = tmp_path / "venv"
  return run


def fake_pythons(folder: pathlib.Path, version: str, ensurepip_status: int) -> str:
  """Returns a PATH on which every Python that the scripts look for is a fake one."""
  folder.mkdir()
  for name in PYTHONS:
    path = folder / name
    path.write_text(FAKE_PYTHON.format(version=version, ensurepip_status=ensurepip_status))
    path.chmod(0o755)
  return f"{folder}{os.pathsep}{os.environ['PATH']}"


def fake_venv(folder: pathlib.Path, main: str) -> None:
  """Makes an environment whose `python` succeeds at everything but runs `main`, shell, for -m."""
  (folder / "bin").mkdir(parents=True)
  (folder / "pyvenv.cfg").touch()
  python = folder / "bin" / "python"
  python.write_text(
    f'#!/bin/sh\ncase "$*" in *fspo_jax.main*)\n{main}\n;; -V) echo Python 3.12.1 ;; esac\n'
  )
  python.chmod(0o755)


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh"])
def test_help(launch, script):
  done = launch(script, "--help")
  assert done.returncode == 0
  assert f"Usage: bash launch/{script}" in done.stdout
  assert "set -e" not in done.stdout
  assert not launch.venv.exists()


@pytest.mark.parametrize("command", [("quickstart.sh", "out"), ("test.sh",)])
def test_python_too_old(launch, tmp_path, command):
  done = launch(*command, PATH=fake_pythons(tmp_path / "bin", "3.9.18", ensurepip_status=0))
  assert done.returncode == 1
  assert "needs Python 3.11 or newer" in done.stderr
  assert "python3 is 3.9.18" in done.stderr


def test_named_python_is_missing(launch):
  done = launch("test.sh", PYTHON="/no/such/python")
  assert done.returncode == 1
  assert "Looked for /no/such/python; none of them runs" in done.stderr


def test_no_venv_module(launch, tmp_path):
  done = launch("test.sh", PATH=fake_pythons(tmp_path / "bin", "3.12.1", ensurepip_status=1))
  assert done.returncode == 1
  assert "apt install python3.12-venv" in done.stderr


def test_workdir_cannot_be_made(launch):
  (launch.elsewhere / "file").touch()
  done = launch("quickstart.sh", "file/run")
  assert done.returncode == 1
  assert f"cannot make WORKDIR {launch.elsewhere / 'file' / 'run'}" in done.stderr
  assert not launch.venv.exists()


def test_disk_too_small(launch):
  done = launch("test.sh", FSPO_NEED_MB="999999999")
  assert done.returncode == 1
  assert "needs 999999999 MB of disk" in done.stderr
  assert not launch.venv.exists()


def test_index_unreachable(launch):
  done = launch(
    "test.sh",
    PYTHON=sys.executable,
    FSPO_NEED_MB="1",
    PIP_CONFIG_FILE=os.devnull,
    PIP_INDEX_URL="http://127.0.0.1:9/simple",
    PIP_RETRIES="0",
  )
  assert done.returncode == 1
  assert "the package index could not be reached" in done.stderr
  assert (launch.venv / "fspo-install.log").exists()
  assert not (launch.venv / "fspo-installing").exists()


def test_never_touches_what_is_no_environment(launch):
  launch.venv.mkdir()
  (launch.venv / "thesis.tex").touch()
  done = launch("test.sh")
  assert done.returncode == 1
  assert "is not a virtual environment" in done.stderr
  assert (launch.venv / "thesis.tex").exists()


def test_waits_its_turn(launch):
  fake_venv(launch.venv, "exit 0")
  (launch.venv / "fspo-installing").write_text(str(os.getpid()))
  done = launch("test.sh")
  assert done.returncode == 1
  assert f"process {os.getpid()} is installing" in done.stderr


def test_half_made_environment_is_made_anew(launch):
  fake_venv(launch.venv, "exit 0")
  (launch.venv / "left-over").touch()
  with subprocess.Popen(["true"]) as gone:
    gone.wait()
  (launch.venv / "fspo-installing").write_text(str(gone.pid))
  done = launch(
    "test.sh",
    PYTHON=sys.executable,
    FSPO_NEED_MB="1",
    PIP_CONFIG_FILE=os.devnull,
    PIP_INDEX_URL="http://127.0.0.1:9/simple",
    PIP_RETRIES="0",
  )
  assert "an earlier installation was cut off" in done.stdout
  assert not (launch.venv / "left-over").exists()
  assert "the package index could not be reached" in done.stderr


def test_quickstart_runs_the_recipe_and_says_where_the_report_is(launch, repo):
  fake_venv(launch.venv, 'pwd; echo "$@"')
  done = launch("quickstart.sh", "out", "--config.seed=1", FSPO_NEED_MB="1")
  workdir = launch.elsewhere / "out"
  assert done.returncode == 0, done.stderr
  assert f"{repo}\n" in done.stdout
  assert f"--config=experiments/quickstart.py --workdir={workdir} --config.seed=1" in done.stdout
  assert str(workdir / "report" / "report.md") in done.stdout
  assert str(workdir / "results.json") in done.stdout
  assert "installing" in done.stdout
  again = launch("quickstart.sh", "out", FSPO_NEED_MB="1")
  assert again.returncode == 0
  assert "installing" not in again.stdout


def test_quickstart_passes_the_exit_code_on(launch):
  fake_venv(launch.venv, "exit 7")
  done = launch("quickstart.sh", "out", FSPO_NEED_MB="1")
  assert done.returncode == 7
  assert "the run failed (exit code 7)" in done.stderr
  assert "report" not in done.stdout


def test_ctrl_c_says_how_to_go_on(launch):
  fake_venv(launch.venv, "kill -INT $PPID; exit 130")
  done = launch("quickstart.sh", "out", FSPO_NEED_MB="1")
  assert done.returncode == 130
  assert "stopped; the same command goes on from there" in done.stderr

# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The launch scripts read, not run: shellcheck, their help, and what goes into the image."""

import fnmatch
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPO

LAUNCH = REPO / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
RUN = [path for path in SCRIPTS if path.name not in ("common.sh", "cloud.sh", "tpu_slice.sh")]


def test_shellcheck():
  # Of the extra `dev`: beside the interpreter where no environment is active.
  path = str(pathlib.Path(sys.executable).parent)
  shellcheck = shutil.which("shellcheck", path=path) or shutil.which("shellcheck")
  if shellcheck is None:
    pytest.skip("no shellcheck (extra `dev`, or apt install shellcheck)")
  files = [str(path.relative_to(REPO)) for path in SCRIPTS]
  assert len(files) >= 8
  command = [shellcheck, "--external-sources", *files]
  done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_help_says_how_it_is_called(path):
  for flag in ("--help", "-h"):
    done = subprocess.run(["bash", path, flag], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert f"Usage: bash launch/{path.name}" in done.stdout
    assert "set -e" not in done.stdout


def ignored(name, patterns):
  """Whether a path is left out of the image, as docker reads the file: a folder with all in it."""
  parts = name.split("/")
  prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
  return any(
    fnmatch.fnmatch(prefix, pattern) or fnmatch.fnmatch(prefix, pattern.removeprefix("**/"))
    for prefix in prefixes
    for pattern in patterns
  )


def test_image_has_the_code_and_nothing_that_git_ignores():
  lines = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
  patterns = [line for line in lines if line and not line.startswith("#")]
  for line in (REPO / ".gitignore").read_text().splitlines():
    if line and not line.startswith("#"):
      name = line.strip("/").replace("*.", "x.").replace("[co]", "c")
      assert ignored(name, patterns), line
      if not line.startswith("/"):
        assert ignored(f"fspo_jax/models/{name}", patterns), line
  assert ignored(".git/config", patterns)
  for name in (
    "setup.py",
    "fspo_jax/main.py",
    "experiments/quickstart.py",
    "fspo_jax/worlds/base/x",
  ):
    assert not ignored(name, patterns), name


def test_image_installs_an_extra_that_there_is():
  dockerfile = (LAUNCH / "Dockerfile").read_text()
  setup = (REPO / "setup.py").read_text()
  assert "ARG EXTRA=tpu" in dockerfile
  assert '"tpu": ["jax[tpu]' in setup and '"cuda": ["jax[cuda' in setup

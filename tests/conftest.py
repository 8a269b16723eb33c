# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What every test shares. Imports no jax: some floors are tested to work without it."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import hypothesis
import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]

# Read by jax when it is first imported, here and in the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Broadcasting arrays of different rank is how a missing axis goes unnoticed.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Most of the tests' time is XLA's compilation, and half of that its optimizations, which are not
# what is tested: what a program computes is the same without, but for the last bits.
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests with them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# The same examples on every run, and no verdict that depends on how busy the machine is.
hypothesis.settings.register_profile(
  "fspo",
  deadline=None,
  derandomize=True,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fspo")


@pytest.fixture(scope="session")
def repo() -> pathlib.Path:
  """The root of the repository."""
  return REPO


@pytest.fixture(scope="module")
def optimized():
  """XLA optimizes what a module compiles, as for users: for results that agree to the last bit."""
  import jax  # Not above: see there.

  name = "jax_disable_most_optimizations"
  before = jax.config.read(name)
  jax.config.update(name, False)
  yield
  jax.config.update(name, before)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder of the shared data sets and checkpoints; skips the test where there is none."""
  path = pathlib.Path(os.environ.get("FSPO_SHARED_DATA") or REPO.parent / "shared" / "data")
  if not path.is_dir():
    pytest.skip(f"no shared data at {path}; set FSPO_SHARED_DATA to its folder")
  return path


@pytest.fixture(scope="session")
def bucket():
  """The gs:// name of a bucket of a stand-in for Cloud Storage, for this and child processes."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  url = f"http://localhost:{port}"
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STORAGE_EMULATOR_HOST", url)  # of gcsfs
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    # What it would ask of a service that the stand-in is not.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="the extra 'gcs' is not installed")
    pytest.importorskip("gcp_storage_emulator", reason="of the extra 'dev'")
    command = [sys.executable, "-m", "tests.cloud_storage", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=REPO, stdout=quiet, stderr=quiet) as server:
      try:
        _wait_for(port, server)
        yield "gs://bucket"
      finally:
        server.kill()


def _wait_for(port: int, server: subprocess.Popen) -> None:
  deadline = time.monotonic() + 60
  while server.poll() is None and time.monotonic() < deadline:
    with socket.socket() as asked:
      if asked.connect_ex(("localhost", port)) == 0:
        return
    time.sleep(0.1)
  raise RuntimeError(f"the stand-in for Cloud Storage does not answer on port {port}")

# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: Orbax, self-contained (params, optimizer, config, tokenizer), for any mesh."""

from __future__ import annotations

import base64
from collections.abc import Mapping
import hashlib
import logging
import os
import threading
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from fspo_jax import paths, processes, seals

_LOG = logging.getLogger(__name__)
_POLL_SECONDS, _BUCKET_POLL_SECONDS = 0.05, 1.0


class Restored(NamedTuple):
  """What a checkpoint holds."""

  step: int
  params: Any
  opt_state: Any
  metadata: dict[str, Any]


class _Manager(ocp.CheckpointManager):
  """Orbax's, which does not ask JAX whether the run is preempted.

  `preemption.Watch` does. It numbers its questions, Orbax its steps, and JAX answers yes at the
  number after the last that it was asked with: whoever else asks moves that away.
  """

  def reached_preemption(self, step: int) -> bool:
    """No: who saves was told so by the watch."""
    del step
    return False


class Checkpoints:
  """The checkpoints of one stage: `directory/<step>/{params, opt_state, metadata}`.

  Params lie apart from the optimizer, so that whoever evaluates reads them alone; `metadata` holds
  the config, the tokenizer and the step, which is all the state that the data has. Each is sealed
  (see `seals`): one whose files are not what was written is passed over, and said to be.
  """

  def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2) -> None:
    self.directory = paths.path(directory)
    self._manager = _Manager(
      self.directory,
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
      item_names=("params", "opt_state", "metadata"),
    )
    self._broken: dict[int, str | None] = {}  # what is wrong with the checkpoint of a step
    self._sealing: threading.Thread | None = None
    self._closing = threading.Event()

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *unused: object) -> None:
    self._manager.close()  # waits for saves under way
    self._closing.set()
    self._wait_for_seal()

  def latest_step(self) -> int | None:
    """The step of the last checkpoint that is whole; a save cut short does not count."""
    found = -1
    if processes.first():
      sound = (step for step in self._steps() if self._problem(step) is None)
      found = next(sound, -1)
    found = processes.agreed(found)
    return None if found < 0 else found

  def set_broken_aside(self) -> None:
    """Renames checkpoints that are not what was written, so that their steps can be saved again."""
    if processes.first():
      for step in self._steps():
        if self._problem(step) is not None:
          seals.set_aside(self.directory, step)
    processes.wait_for_all(f"{self.directory}: broken checkpoints are set aside")
    self._manager.reload()

  def _steps(self) -> list[int]:
    """Of all checkpoints, the newest first."""
    return sorted(self._manager.all_steps(), reverse=True)

  def _problem(self, step: int) -> str | None:
    if step not in self._broken:
      # Who hands a model on leaves the optimizer out.
      why = seals.problem(self.directory, step, optional="opt_state")
      self._broken[step] = why
      if why is not None:
        _LOG.warning("checkpoint %s is broken, and not used: %s", self.directory / str(step), why)
    return self._broken[step]

  def save(
    self,
    step: int,
    params: Any,
    opt_state: Any | None,
    config: dict,
    tokenizer: bytes,
    facts: Mapping[str, Any] | None = None,
  ) -> None:
    """Saves in the background; the arrays may be donated as soon as this returns.

    Without an optimizer's state (None) it is a model to start from, not a training to go on with.
    `facts`, as JSON has them, are what else `metadata` is to say of the parameters.
    """
    metadata = {
      "step": step,
      "config": config,
      "tokenizer": base64.b64encode(tokenizer).decode("ascii"),
      **(facts or {}),
    }
    items = {"params": ocp.args.StandardSave(params), "metadata": ocp.args.JsonSave(metadata)}
    if opt_state is not None:
      items["opt_state"] = ocp.args.StandardSave(opt_state)
    self.wait()  # raises where the last one failed, whose seal would not come
    if not self._manager.save(step, args=ocp.args.Composite(**items)):
      raise ValueError(
        f"{self.directory}: found a checkpoint of step {step} or later, expected earlier ones alone"
      )
    self._broken[step] = None
    if processes.first():
      self._sealing = threading.Thread(target=self._seal, args=(step,), daemon=True)
      self._sealing.start()

  def _seal(self, step: int) -> None:
    """Waits in the background until a checkpoint is there, and seals it."""
    poll = _BUCKET_POLL_SECONDS if paths.in_bucket(self.directory) else _POLL_SECONDS
    while not self._is_finished(step):
      if self._closing.wait(poll) and not self._is_finished(step):
        return
    seals.write(self.directory, step)

  def _is_finished(self, step: int) -> bool:
    """Whether a checkpoint is there: it has got its name, and in a bucket also Orbax's mark."""
    made = self.directory / str(step)
    return made.is_dir() and ocp.utils.is_checkpoint_finalized(made)

  def _wait_for_seal(self) -> None:
    if self._sealing is not None:
      self._sealing.join()
      self._sealing = None

  def wait(self) -> None:
    """Waits until what was saved is on disk."""
    self._manager.wait_until_finished()
    self._wait_for_seal()

  def restore(self, abstract_params: Any, abstract_opt_state: Any) -> Restored:
    """Restores the latest checkpoint onto the shardings of the abstract trees.

    Raises:
      FileNotFoundError: there is none.
    """
    step = self._require_step()
    got = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract_params),
        opt_state=ocp.args.StandardRestore(abstract_opt_state),
        metadata=ocp.args.JsonRestore(),
      ),
    )
    return Restored(step, got.params, got.opt_state, got.metadata)

  def restore_params(self, abstract_params: Any) -> Any:
    """Restores the latest params alone, onto the shardings of `abstract_params`."""
    args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract_params))
    return self._manager.restore(self._require_step(), args=args).params

  def metadata(self) -> dict[str, Any]:
    """The latest checkpoint's step, config, tokenizer (base64), and facts."""
    args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
    return self._manager.restore(self._require_step(), args=args).metadata

  def tokenizer(self) -> bytes:
    """The tokenizer's model of the latest checkpoint."""
    return base64.b64decode(self.metadata()["tokenizer"])

  def _require_step(self) -> int:
    step = self.latest_step()
    if step is None:
      raise FileNotFoundError(f"{self.directory}: no checkpoint; expected <step>/params in it")
    return step


def fingerprint(params: Any) -> str:
  """SHA-256 of parameters: of names, types, shapes and values, wherever they live."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
      # One array at a time: a host may hold one, and not all of them.
      leaf = multihost_utils.process_allgather(leaf, tiled=True)
    digest.update(np.ascontiguousarray(leaf).view(np.uint8))
  return digest.hexdigest()


def abstract_like(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)

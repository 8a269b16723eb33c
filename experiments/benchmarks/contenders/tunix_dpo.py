# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tunix's DPOTrainer with its own Llama, on the same token ids in the paper's layout.

It has DPO's loss and not IPO's: what a step computes is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import pathlib

from jaxtyping import Float
import numpy as np

from experiments.benchmarks.contenders import setting as setting_lib
from experiments.benchmarks.contenders.contract import AbsentError, FinishedError, Rounds
from experiments.benchmarks.contenders.setting import Sequences, Setting

try:
  from flax import nnx
  import jax
  import jax.numpy as jnp
  import optax
  from tunix.models.llama3 import model as llama
  from tunix.models.llama3 import params as llama_params
  from tunix.sft.dpo import dpo_trainer
except ImportError as error:
  raise AbsentError(f"{error}; `pip install fspo_jax[bench]` has it") from error

_MULTIPLE = 8  # that prompts and responses are padded to


class TunixDPO:
  """`tunix.sft.dpo.DPOTrainer`."""

  def __init__(self, setting: Setting, workdir: pathlib.Path) -> None:
    self._setting, c = setting, setting.config
    config = llama.ModelConfig(
      num_layers=c.layers,
      vocab_size=c.vocab_size,
      embed_dim=c.width,
      hidden_dim=c.mlp,
      num_heads=c.heads,
      head_dim=c.head_dim,
      num_kv_heads=c.kv_heads,
      rope_theta=int(c.rope_theta),
      norm_eps=c.norm_eps,
      weight_tying=c.tied,
    )
    self._mesh = jax.make_mesh(
      (1, 1),
      ("fsdp", "tp"),
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
      devices=jax.devices()[:1],
    )
    self._policy, self._reference = (
      llama_params.create_model_from_safe_tensors(
        os.fspath(workdir / name), config, self._mesh, jnp.dtype(setting.dtype)
      )
      for name in ("policy", "reference")
    )
    rule = optax.adamw(
      setting_lib.LEARNING_RATE, setting_lib.B1, setting_lib.B2, setting_lib.EPS, weight_decay=0.0
    )
    training = dpo_trainer.DPOTrainingConfig(
      beta=setting_lib.BETA, eval_every_n_steps=1_000_000, max_steps=None
    )
    self._trainer = dpo_trainer.DPOTrainer(
      self._policy,
      self._reference,
      optax.chain(optax.clip_by_global_norm(setting_lib.CLIP), rule),
      training,
    )
    sequences = setting_lib.task(setting).sequences
    self._batches = [_padded(step, sequences) for step in setting_lib.steps_of(setting, sequences)]
    self.padded_tokens = sum(
      2 * b.prompt_ids.size + b.chosen_ids.size + b.rejected_ids.size for b in self._batches
    )

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """Log-probabilities, from the trainer's own function."""
    with self._mesh:
      example = self._trainer._prepare_inputs(self._batches[0])
      chosen, rejected = dpo_trainer.compute_logps(
        self._policy,
        example.input_ids,
        example.positions,
        example.attention_mask,
        example.logits_to_keep,
        example.completion_mask,
      )
    found = {"chosen": chosen, "rejected": rejected}
    found |= {"ref_chosen": example.ref_chosen_logps, "ref_rejected": example.ref_rejected_logps}
    return {name: np.asarray(x, np.float32) for name, x in found.items()}

  def train(self, rounds: Rounds) -> None:
    """Its `train`, whose data says when a step was given to the device."""

    def data() -> Iterator[dpo_trainer.TrainingInput]:
      try:
        rounds.begin(self.wait)
        while True:
          for batch in self._batches:
            yield batch
            rounds.done()
      except FinishedError:
        return

    with self._mesh:
      self._trainer.train(data())

  def wait(self) -> None:
    """Waits for the last step's parameters."""
    jax.block_until_ready(nnx.state(self._policy))

  def multiply(self) -> None:
    """As ours."""

  def device_peak_bytes(self) -> int | None:
    """As JAX's allocator knows it."""
    stats = None if jax.default_backend() == "cpu" else jax.devices()[0].memory_stats()
    return None if stats is None else stats["peak_bytes_in_use"]


def _padded(batch: list[Sequences], every: list[Sequences]) -> dpo_trainer.TrainingInput:
  """Prompts padded on the left and responses on the right, all batches to the same shape."""

  def longest(lengths: list[int]) -> int:
    return -(-max(lengths) // _MULTIPLE) * _MULTIPLE

  prompt = longest([len(s.prompt) for s in every])
  answer = longest([len(a) for s in every for a in (s.chosen, s.rejected)])

  def pad(rows: list[tuple[int, ...]], length: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = (np.zeros((len(rows), length), np.int32) for _ in range(2))
    for i, row in enumerate(rows):
      where = slice(length - len(row), length) if left else slice(len(row))
      ids[i, where], mask[i, where] = row, 1
    return ids, mask

  prompt_ids, prompt_mask = pad([s.prompt for s in batch], prompt, left=True)
  chosen_ids, chosen_mask = pad([s.chosen for s in batch], answer, left=False)
  rejected_ids, rejected_mask = pad([s.rejected for s in batch], answer, left=False)
  return dpo_trainer.TrainingInput(
    prompt_ids=prompt_ids,
    prompt_mask=prompt_mask,
    chosen_ids=chosen_ids,
    chosen_mask=chosen_mask,
    rejected_ids=rejected_ids,
    rejected_mask=rejected_mask,
  )

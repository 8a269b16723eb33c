# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""TRL's DPOTrainer, its own loop and collator, on the same token ids in the paper's layout.

There is none without padding: of `padding_free` TRL 1.16 says that it is unavailable in DPO since
its refactor (it falls back to padding), and that it needs FlashAttention, which no CPU has.
"""

from __future__ import annotations

import pathlib
from typing import Any

from jaxtyping import Float
import numpy as np

from experiments.benchmarks.contenders import paper_torch
from experiments.benchmarks.contenders import setting as setting_lib
from experiments.benchmarks.contenders.contract import AbsentError, Rounds
from experiments.benchmarks.contenders.setting import Setting

try:
  import datasets
  import tokenizers
  import transformers
  import trl
except ImportError as error:
  raise AbsentError(f"{error}; `pip install fspo_jax[bench]` has it") from error

_PAD = "<pad>"


class _Trainer(trl.DPOTrainer):
  """The trainer, given token ids: what it makes of text is not what is compared."""

  def _prepare_dataset(self, dataset: Any, *args: Any, **keys: Any) -> Any:
    del args, keys
    return dataset


class _Told(transformers.TrainerCallback):
  """Counts steps at their ends."""

  def __init__(self, rounds: Rounds) -> None:
    self._rounds = rounds

  def on_step_end(self, *args: Any, **keys: Any) -> None:
    """A step is done."""
    del args, keys
    self._rounds.done()


def _nothing_but_padding() -> transformers.PreTrainedTokenizerFast:
  """A tokenizer for a trainer that asks it for the padding id alone."""
  model = tokenizers.models.WordLevel({_PAD: 0, "</s>": 2}, unk_token=_PAD)
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(model), pad_token=_PAD, eos_token="</s>"
  )


class TRL:
  """`trl.DPOTrainer`, IPO."""

  def __init__(self, setting: Setting, workdir: pathlib.Path, *, precomputed: bool) -> None:
    paper_torch.use_all_cores()
    self._setting = setting
    policy, reference = (
      paper_torch.load(setting, workdir / name) for name in ("policy", "reference")
    )
    sequences = setting_lib.task(setting).sequences
    on_cpu = paper_torch.device().type == "cpu"
    arguments = trl.DPOConfig(
      output_dir=str(workdir / f"trl-{precomputed}"),
      loss_type=["ipo"],
      beta=setting_lib.BETA,
      max_length=None,
      precompute_ref_log_probs=precomputed,
      per_device_train_batch_size=setting.episodes,
      max_steps=1_000_000,
      train_sampling_strategy="sequential",
      learning_rate=setting_lib.LEARNING_RATE,
      lr_scheduler_type="constant",
      warmup_steps=0,
      adam_beta1=setting_lib.B1,
      adam_beta2=setting_lib.B2,
      adam_epsilon=setting_lib.EPS,
      weight_decay=0.0,
      max_grad_norm=setting_lib.CLIP,
      bf16=False,  # weights are in the setting's dtype as they are
      gradient_checkpointing=False,
      use_cpu=on_cpu,
      dataloader_pin_memory=not on_cpu,
      disable_tqdm=True,
      logging_strategy="no",
      report_to="none",
      save_strategy="no",
      seed=setting.seed,
    )
    keys = ("prompt", "chosen", "rejected")
    data = datasets.Dataset.from_dict(
      {f"{key}_ids": [list(getattr(s, key)) for s in sequences] for key in keys}
    )
    self._trainer = _Trainer(
      model=policy,
      ref_model=reference,
      args=arguments,
      train_dataset=data,
      processing_class=_nothing_but_padding(),
    )
    if precomputed:
      self._trainer.ref_model = None  # it is asked no more
    self._reference = None if precomputed else reference
    batches = setting_lib.steps_of(setting, list(self._trainer.train_dataset))
    collated = [self._trainer.data_collator(batch) for batch in batches]
    self._first = collated[0]
    self.padded_tokens = sum(batch["input_ids"].numel() for batch in collated)

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """Log-probabilities, from the trainer's own function for the reference's."""
    inputs = {name: x.to(paper_torch.device()) for name, x in self._first.items()}
    names = ("chosen", "rejected")

    def scored(model: transformers.PreTrainedModel) -> list[Float[np.ndarray, " episodes"]]:
      found = self._trainer.compute_ref_log_probs(model, inputs)
      return [x.float().cpu().numpy() for x in found]

    found = dict(zip(names, scored(self._trainer.model), strict=True))
    if self._reference is None:
      return found | {f"ref_{name}": inputs[f"ref_{name}_logps"].cpu().numpy() for name in names}
    return found | dict(zip(("ref_chosen", "ref_rejected"), scored(self._reference), strict=True))

  def train(self, rounds: Rounds) -> None:
    """Its `train`."""
    self._trainer.add_callback(_Told(rounds))
    rounds.begin(paper_torch.wait)
    self._trainer.train()

  def multiply(self) -> None:
    """As that of `paper_torch`."""

  def device_peak_bytes(self) -> int | None:
    """As torch's allocator knows it."""
    return paper_torch.device_peak_bytes()

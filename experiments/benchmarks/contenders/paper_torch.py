# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The paper's layout in torch and transformers, with the formulas of its code written out.

All sequences of a batch, the chosen ones first, go through the model together, padded on the right
to the longest; logits of all tokens, log-softmax in float32, the sum over a response's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib

from jaxtyping import Float
import numpy as np

from experiments.benchmarks.contenders import setting as setting_lib
from experiments.benchmarks.contenders.contract import AbsentError, Rounds
from experiments.benchmarks.contenders.setting import Sequences, Setting

try:
  import torch
  import transformers
except ImportError as error:
  raise AbsentError(f"{error}; `pip install fspo_jax[bench]` has it") from error


def use_all_cores() -> None:
  """As many threads as cores that this process may run on, as XLA has them."""
  torch.set_num_threads(len(os.sched_getaffinity(0)))


def device() -> torch.device:
  """That of JAX_PLATFORMS, which says where all contenders run."""
  return torch.device("cpu" if os.environ.get("JAX_PLATFORMS") == "cpu" else "cuda")


def load(setting: Setting, folder: pathlib.Path) -> transformers.PreTrainedModel:
  """A model from a folder, with torch's own fused attention."""
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=getattr(torch, setting.dtype), attn_implementation="sdpa"
  )
  return model.to(device())


def pad(batch: list[Sequences]) -> dict[str, torch.Tensor]:
  """Ids, attention mask, and which ids are a response's."""
  written = [(s.prompt, s.chosen) for s in batch] + [(s.prompt, s.rejected) for s in batch]
  longest = max(len(prompt) + len(answer) for prompt, answer in written)
  ids = torch.zeros(len(written), longest, dtype=torch.long)
  attended, scored = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
  for row, (prompt, answer) in enumerate(written):
    length = len(prompt) + len(answer)
    ids[row, :length] = torch.tensor(prompt + answer)
    attended[row, :length] = 1
    scored[row, len(prompt) : length] = True
  return {"ids": ids, "attended": attended, "scored": scored}


def logprobs(
  model: transformers.PreTrainedModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
  """Summed log-probabilities of the chosen and of the rejected responses."""
  logits = model(batch["ids"], attention_mask=batch["attended"], use_cache=False).logits
  labels, scored = batch["ids"][:, 1:], batch["scored"][:, 1:]
  by_token = torch.log_softmax(logits[:, :-1].float(), dim=-1)
  picked = torch.gather(by_token, 2, labels[..., None])[..., 0]
  return (picked * scored).sum(-1).chunk(2)


def ipo(
  policy: tuple[torch.Tensor, torch.Tensor], reference: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
  """IPO, arXiv 2310.12036 eq. 17, of summed log-probabilities, the mean over pairs."""
  h = (policy[0] - policy[1]) - (reference[0] - reference[1])
  return ((h - 1 / (2 * setting_lib.BETA)) ** 2).mean()


class PaperTorch:
  """A plain training loop."""

  def __init__(self, setting: Setting, workdir: pathlib.Path) -> None:
    use_all_cores()
    self._setting = setting
    self._policy, self._reference = (load(setting, workdir / n) for n in ("policy", "reference"))
    self._reference.requires_grad_(False)
    sequences = setting_lib.steps_of(setting, setting_lib.task(setting).sequences)
    self._batches = [pad(step) for step in sequences]
    self.padded_tokens = sum(batch["ids"].numel() for batch in self._batches)

  def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    batch = {name: x.to(device()) for name, x in batch.items()}
    with torch.no_grad():
      reference = logprobs(self._reference, batch)
    return ipo(logprobs(self._policy, batch), reference)

  def check(self) -> dict[str, Float[np.ndarray, "..."]]:
    """Log-probabilities, and the gradient."""
    batch = {name: x.to(device()) for name, x in self._batches[0].items()}
    found = {}
    with torch.no_grad():
      for prefix, model in (("", self._policy), ("ref_", self._reference)):
        scored = (x.cpu().numpy() for x in logprobs(model, batch))
        found |= dict(zip((f"{prefix}chosen", f"{prefix}rejected"), scored, strict=True))
    self._loss(batch).backward()
    for name, parameter in self._policy.named_parameters():
      found[f"gradient/{name}"] = parameter.grad.float().cpu().numpy()
    self._policy.zero_grad(set_to_none=True)
    return found

  def train(self, rounds: Rounds) -> None:
    """Forwards, backwards, clip, AdamW."""
    parameters = list(self._policy.parameters())
    optimizer = torch.optim.AdamW(
      parameters,
      lr=setting_lib.LEARNING_RATE,
      betas=(setting_lib.B1, setting_lib.B2),
      eps=setting_lib.EPS,
      weight_decay=0.0,
      fused=True,
    )
    rounds.begin(wait)
    while True:
      for batch in self._batches:
        self._loss(batch).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, setting_lib.CLIP)
        if not torch.isfinite(norm):
          raise FloatingPointError("the gradient is not finite")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rounds.done()

  def multiply(self) -> tuple[int, Callable[[], None]]:
    """By `torch.matmul`."""
    return product(getattr(torch, self._setting.dtype))

  def device_peak_bytes(self) -> int | None:
    """As torch's allocator knows it."""
    return device_peak_bytes()


def wait() -> None:
  """Returns when the device has done all that it was given."""
  if device().type == "cuda":
    torch.cuda.synchronize()


def product(dtype: torch.dtype) -> tuple[int, Callable[[], None]]:
  """A large matrix product in torch; see `contract.Contender`."""
  n = 2048 if device().type == "cpu" else 8192
  x = torch.ones(n, n, dtype=dtype, device=device())

  def multiply() -> None:
    x @ x
    wait()

  return n, multiply


def device_peak_bytes() -> int | None:
  """The most memory of the accelerator that was in use; None on a CPU."""
  return None if device().type == "cpu" else torch.cuda.max_memory_allocated()

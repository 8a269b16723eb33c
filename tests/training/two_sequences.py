# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A step of FSPO as the paper takes it, in torch: two plain sequences a pair, each with all shots.

Nothing here is from `fspo_jax`: the headings are written out, the losses are the papers' formulas,
gradients have the names and shapes of the checkpoint. Torch is imported where it is used.
"""

import pathlib
import shutil
from typing import NamedTuple

import ml_dtypes  # noqa: F401  (with it numpy knows bfloat16)
import numpy as np
from safetensors.numpy import load_file, save_file
import sentencepiece

BETA = 0.5
PROJECTIONS = 3
HUGGINGFACE = pathlib.Path(__file__).parents[1] / "models" / "fixtures" / "huggingface"
GOLDEN = pathlib.Path(__file__).parent / "fixtures" / "two_sequences"


class Case(NamedTuple):
  """What is compared: which pairs, and which loss of them."""

  every: bool  # the pair of every shot too, each after those before it
  loss: str
  mean: bool  # log-probabilities per token

  def __str__(self):
    return f"{'every' if self.every else 'query'}.{self.loss}.{'mean' if self.mean else 'sum'}"


CASES = [
  Case(every, loss, mean)
  for every in (False, True)
  for loss in ("ipo", "dpo")
  for mean in (False, True)
]

# Of each user: the shots, and then the query; (prompt, chosen, rejected).
USERS = (
  (
    ("tell me of the cat.", "the cat sat in the sun.", "a cat."),
    ("what did tom see?", "tom saw a big red ball and ran to it.", "he saw it."),
    ("why is lily sad?", "she lost her toy in the park.", "no one can say."),
    ("where is the dog?", "the dog is in the garden with mom.", "out."),
  ),
  (
    ("who likes cake?", "ben.", "ben and his friends like cake very much."),
    ("how was the day?", "it was fun.", "it was a long day with a lot of rain."),
    ("what is in the box?", "a toy.", "once upon a time there was a box."),
  ),
)


class Letters:
  """A tokenizer of few ids, one a letter, for models with a vocabulary of 48."""

  bos_id, eos_id = 1, 2
  _LETTERS = "\n# ?.QPRDUabcdefghijklmnopqrstuvwxyz"

  def token_id(self, text):
    return None

  def encode(self, text, *, continued=False):
    return tuple(3 + self._LETTERS.index(letter) for letter in text)


class Pieces:
  """A SentencePiece model, as its own library has it."""

  def __init__(self, folder):
    file = str(folder / "tokenizer.model")
    self._processor = sentencepiece.SentencePieceProcessor(model_file=file)
    self.bos_id, self.eos_id = self._processor.bos_id(), self._processor.eos_id()

  def encode(self, text):
    return self._processor.encode(text)


def asked_pairs(user, every):
  """What is scored of a user: (the shots before it, the pair), in the order of the shots."""
  first = 0 if every else len(user) - 1
  return [(user[:k], user[k]) for k in range(first, len(user))]


def sequence(tokenizer, shots, prompt, response):
  """Ids of a prompt with its shots, and those of the response that ends it.

  The section headings of the paper's code, written out; its lines `# Example i` and `# Task`, with
  the sentence that follows, are in no template here.
  """

  def text(*parts):
    return [i for part in parts for i in tokenizer.encode(part)]

  end = [tokenizer.eos_id]
  ids = [tokenizer.bos_id]
  for question, chosen, rejected in shots:
    ids += text("\n## Question\n", question)
    ids += text("\n## Preferred Response\n", chosen) + end
    ids += text("\n## Dispreferred Response\n", rejected) + end
  ids += text("\n## Question\n", prompt, "\n## Preferred Response\n")
  return ids, text(response) + end


def tensors(folder):
  """The tensors of a checkpoint, in float32."""
  found = load_file(folder / "model.safetensors")
  return {name: np.asarray(found[name], np.float32) for name in sorted(found)}


def write_reference(folder, to):
  """A checkpoint beside that of `folder`, every tensor of which is another by some percent."""
  shutil.copytree(folder, to, ignore=shutil.ignore_patterns("model.safetensors"))
  to.chmod(0o755)  # what it is copied from may be read-only
  changed = {
    name: (1 + 0.1 * np.cos(np.arange(x.size))).astype(np.float32).reshape(x.shape) * x
    for name, x in tensors(folder).items()
  }
  save_file(changed, to / "model.safetensors", metadata={"format": "pt"})


def open_torch(folder):
  """The model in torch: float32, eager attention, nothing that is random."""
  import torch
  import transformers

  return transformers.LlamaForCausalLM.from_pretrained(
    folder, attn_implementation="eager", dtype=torch.float32
  ).eval()


def _log_probability(model, prompt, response):
  """The sum of the log-probabilities of a response's tokens, after its prompt."""
  import torch

  logits = model(torch.tensor([prompt + response])).logits[0]
  logprobs = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
  return logprobs[torch.arange(len(response)), torch.tensor(response)].sum()


def _log_ratios(policy, reference, tokenizer, user, every):
  """Of each pair of a user: log pi - log ref and the length, of the chosen and the rejected."""
  import torch

  found = []
  for shots, (prompt, *responses) in asked_pairs(user, every):
    both = []
    for response in responses:
      context, answer = sequence(tokenizer, shots, prompt, response)
      with torch.no_grad():
        of_reference = _log_probability(reference, context, answer)
      both.append((_log_probability(policy, context, answer) - of_reference, len(answer)))
    found.append(both)
  return found


def _loss(name, h):
  """IPO (arXiv 2310.12036, eq. 17) or DPO (arXiv 2305.18290, eq. 7) of a margin."""
  import torch

  if name == "ipo":
    return (h - 1 / (2 * BETA)) ** 2
  return -torch.log(torch.sigmoid(BETA * h))


def steps(policy, reference, tokenizer):
  """Of each case: the loss, a mean over all pairs; its gradients, by tensor; and the margins."""
  import torch

  names, parameters = zip(*policy.named_parameters(), strict=True)
  ratios = {
    every: [r for u in USERS for r in _log_ratios(policy, reference, tokenizer, u, every)]
    for every in (False, True)
  }
  found = {}
  for case in CASES:
    margins = torch.stack(
      [
        chosen / (of_chosen if case.mean else 1) - rejected / (of_rejected if case.mean else 1)
        for (chosen, of_chosen), (rejected, of_rejected) in ratios[case.every]
      ]
    )
    loss = _loss(case.loss, margins).mean()
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    by_name = {name: g.numpy() for name, g in zip(names, gradients, strict=True)}
    found[case] = loss.item(), by_name, margins.detach().numpy()
  return found


def summary(gradients):
  """Of each tensor's gradient, by its name in order: the norm, and a few random projections."""
  rows = []
  for seed, name in enumerate(sorted(gradients)):
    values = np.asarray(gradients[name], np.float64).ravel()
    # RandomState: the one generator of numpy whose numbers never change.
    directions = np.random.RandomState(seed).standard_normal((PROJECTIONS, values.size))
    rows.append([np.linalg.norm(values), *(directions @ values)])
  return np.asarray(rows)

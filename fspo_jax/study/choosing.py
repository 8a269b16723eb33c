# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which pair a participant labels next, where the model chooses: see `active_questions`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fspo_jax.evaluation import active_questions
from fspo_jax.evaluation.active_questions import Predictor, Task
from fspo_jax.preferences import Preference
from fspo_jax.study import plan
from fspo_jax.study.flow import Flow, Job


def choose(
  flow: Flow, job: Job, shots: Sequence[Preference], asked: Collection[int], predict: Predictor
) -> int:
  """The index of the pair that is asked about at the position that the job names.

  Args:
    flow: of the study.
    job: whose participant, and which position.
    shots: what they have labelled.
    asked: the pairs that they were shown.
    predict: what the model thinks of them.

  Returns:
    Of some random candidates, the one that is predicted least surely ('uncertainty'), or whose
    answer tells most of what else they prefer ('information'), by other random pairs.
  """
  labels, pool = flow.settings.labels, flow.questions.pairs
  order = plan.candidates(flow.settings, job.participant, len(pool), int(job.name))
  left = [i for i in order if i not in asked]
  pairs = [Preference(pool[i].prompt, pool[i].first, pool[i].second) for i in left]
  candidates = tuple(pairs[: labels.candidates])
  targets = tuple(pairs[labels.candidates :][: labels.targets])
  task = Task(str(job.participant), candidates, (), targets, ())
  return left[active_questions.choices([task], [tuple(shots)], [[]], labels.choose, predict)[0]]

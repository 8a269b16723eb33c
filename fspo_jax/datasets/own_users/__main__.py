# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stores your own users.

python -m fspo_jax.datasets.own_users --jsonl=FILE --data_dir=DIR
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from fspo_jax.datasets import own_users, user_sets
from fspo_jax.preferences import PreferenceError


def main() -> None:
  """Stores the users, and says where they are and how to train on them."""
  parser = argparse.ArgumentParser(
    prog="python -m fspo_jax.datasets.own_users",
    description="Stores a JSONL file of preferences as a set of users in ArrayRecord.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument(
    "--jsonl",
    type=pathlib.Path,
    required=True,
    help="a line: user_id, prompt, chosen, rejected[, description]; plain or gzip",
  )
  parser.add_argument(
    "--data_dir", type=pathlib.Path, required=True, help="the set goes to own_users/1.0.0 in it"
  )
  parser.add_argument("--unseen_users", type=float, default=0.1, help="share never trained on")
  parser.add_argument("--unseen_prompts", type=float, default=0.1, help="share never trained on")
  parser.add_argument("--seed", type=int, default=0, help="of who and what is held out")
  parser.add_argument(
    "--set_bad_lines_aside",
    action="store_true",
    help="set lines that cannot be used aside, and count them, instead of refusing the file",
  )
  flags = vars(parser.parse_args())
  try:
    path = own_users.build(flags.pop("jsonl"), flags.pop("data_dir"), **flags)
  except (PreferenceError, ValueError, OSError) as error:
    sys.exit(str(error))
  facts = user_sets.facts(path)
  for name, count in facts.users_of.items():
    print(f"{name}: {count} users, {facts.preferences_of[name]} preferences")
  for reason, count in facts.set_aside.items():
    print(f"set aside: {count} {reason}")
  print(f"the set: {path}")
  print(
    "to train on it: python -m fspo_jax.main --config=experiments/jsonl.py "
    f"--config.data.name=user_set --config.data.path={path} --workdir=DIR"
  )


if __name__ == "__main__":
  main()

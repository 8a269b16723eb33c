# Copyright 2026 The fspo_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a researcher does to a study from the command line, while it is served or not.

python -m fspo_jax.study.manage DIR invite 30    # prints links, which are shown this once
python -m fspo_jax.study.manage DIR revoke 7     # invitation 7 is worth nothing any more
python -m fspo_jax.study.manage DIR password     # of the dashboard, anew
python -m fspo_jax.study.manage DIR export OUT   # users.jsonl and comparisons.jsonl
python -m fspo_jax.study.manage DIR delete 7     # all that is known of participant 7
python -m fspo_jax.study.manage DIR retry        # what the model could not do
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import getpass
import os
import pathlib
import sys
import time

from fspo_jax.study import analysis, opening, records, security

PASSWORD = "FSPO_STUDY_PASSWORD"  # environment variable


def set_password(study: opening.Study, *, anew: bool = False) -> None:
  """Sets the dashboard's password, if there is none or it is to be another.

  Raises:
    ValueError: it is too short, or there is nobody to ask for it.
  """
  if study.store.meta("password") is not None and not anew:
    return
  password = os.environ.get(PASSWORD, "")
  if not password:
    if not sys.stdin.isatty():
      raise ValueError(f"the dashboard has no password: set the environment variable {PASSWORD}")
    password = getpass.getpass(f"A password for the dashboard ({security.MIN_PASSWORD} or more): ")
  study.store.set_meta("password", security.hash_password(password))


def main(arguments: Sequence[str] | None = None) -> None:
  """Does one thing."""
  parser = argparse.ArgumentParser(
    prog="python -m fspo_jax.study.manage", description="Manages a human study."
  )
  parser.add_argument("workdir", type=pathlib.Path, help="of the study")
  commands = parser.add_subparsers(dest="command", required=True)
  invite = commands.add_parser("invite", help="make invitations, and print their links")
  invite.add_argument("count", type=int)
  for name, does in (("revoke", "make a link useless"), ("delete", "delete a participant's data")):
    commands.add_parser(name, help=does).add_argument("number", type=int)
  commands.add_parser("password", help="set the dashboard's password anew")
  commands.add_parser("retry", help="let the model try again what it could not do")
  export = commands.add_parser("export", help="write users.jsonl and comparisons.jsonl")
  export.add_argument("out", type=pathlib.Path)
  export.add_argument("--override", default="", help="why, before the planned sample; recorded")
  flags = parser.parse_args(arguments)
  try:
    for line in _do(opening.reopen(flags.workdir), flags):
      print(line)
  except (analysis.TooEarlyError, ValueError, OSError) as error:
    sys.exit(f"fspo_jax.study: {error}")


def _do(study: opening.Study, flags: argparse.Namespace) -> list[str]:
  """Does what the flags say; what there is to say about it."""
  store, now = study.store, time.time()
  if flags.command == "invite":
    if flags.count < 1:
      raise ValueError(f"invite {flags.count}: expected 1 or more")
    url = study.settings.server.url
    return [f"{number}\t{url}/join/{token}" for number, token in store.invite(flags.count, now)]
  if flags.command == "revoke":
    if not store.revoke(flags.number, now):
      raise ValueError(f"revoke {flags.number}: found no such invitation")
    return [f"invitation {flags.number} is revoked"]
  if flags.command == "delete":
    if not store.erase([flags.number], "asked for by the researcher", now):
      raise ValueError(f"delete {flags.number}: found no such participant")
    return [f"all answers of participant {flags.number} are deleted"]
  if flags.command == "retry":
    return [f"{study.flow.retry()} jobs will be tried again"]
  if flags.command == "export":
    analysis.allow(store, study.settings, flags.override, now, "an export")
    return [str(path) for path in records.export(store, flags.out)]
  set_password(study, anew=True)
  return ["the password is set"]


if __name__ == "__main__":
  main()

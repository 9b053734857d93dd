"""`python -m api keys add | list | revoke`: the keys of a file, which replicas read again within a second."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from api.access.keys import add_key, read_keys, revoke_keys


def add_keys(commands: Any, file: Path | None) -> None:
    """file: where the keys are unless the command line says otherwise."""
    keys = commands.add_parser(
        "keys",
        help="add, list or revoke API keys",
        description="Keeps the file of API keys. Replicas that have it as SHOAL_KEYS_FILE follow within a second.",
    )
    actions = keys.add_subparsers(required=True, metavar="action")
    add = _action(actions, "add", _add, file, "make a key and print it, once; the file keeps its hash")
    add.add_argument("name", help="whose key it is: it stands in logs and metrics")
    _action(actions, "list", _list, file, "names, ids and days of the keys")
    revoke = _action(actions, "revoke", _revoke, file, "let nobody in any more with the keys of a name")
    revoke.add_argument("name")
    revoke.add_argument("--id", help="only this one of them; `list` has the ids")


def _action(actions: Any, name: str, run: Any, file: Path | None, what: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=what, description=what.capitalize() + ".")
    where = f"default: SHOAL_KEYS_FILE, {file}" if file else "default: SHOAL_KEYS_FILE, which is not set"
    action.add_argument("--file", type=Path, default=file, required=file is None, help=where)
    action.set_defaults(run=run)
    return action


def _add(options: argparse.Namespace) -> int:
    key = add_key(options.file, options.name)
    print(f"added a key of {options.name} to {options.file}; it is shown this once:", file=sys.stderr)
    print(key)
    return 0


def _list(options: argparse.Namespace) -> int:
    keys = read_keys(options.file)
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        print(f"{key.name:{width}}  {key.id}  {key.made}".rstrip())
    if not keys:
        print(f"no key in {options.file}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    revoked = revoke_keys(options.file, options.name, options.id)
    which = f"{options.name} with the id {options.id}" if options.id else options.name
    if not revoked:
        print(f"no key of {which} in {options.file}")
        return 1
    print(f"revoked {revoked} key{'s'[: revoked > 1]} of {which}")
    return 0

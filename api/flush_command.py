"""`python -m api flush`: leaves the cached answers of a model behind, over HTTP."""

from __future__ import annotations

import argparse
import http.client
import json
from pathlib import Path
from typing import Any

from api.access.admin_token import read_token


def add(commands: Any, token_file: Path | None) -> None:
    """token_file: where the admin token is unless the command line says otherwise."""
    flush = commands.add_parser(
        "flush",
        help="leave the cached answers of a model behind",
        description="Asks a replica to flush the cached answers of a model, in Redis and in every worker of every"
        " replica. Exit status 1 if it could not, or if a worker hangs.",
    )
    flush.add_argument("model")
    flush.add_argument("--version", help="of this version only; default: of all")
    flush.add_argument("--replica", default="127.0.0.1:8000", metavar="HOST:PORT", help="default: %(default)s")
    flush.add_argument(
        "--token-file",
        type=Path,
        default=token_file,
        metavar="FILE",
        help="with the admin token (default: %(default)s)",
    )
    flush.set_defaults(run=_flush)


def _flush(options: argparse.Namespace) -> int:
    token = read_token(options.token_file)
    body = json.dumps({"model": options.model, "version": options.version})
    connection = http.client.HTTPConnection(options.replica, timeout=20)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request("POST", "/admin/cache/flush", body, headers)
        reply = connection.getresponse()
        answer = json.load(reply)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{options.replica} cannot be asked: {error}") from error
    finally:
        connection.close()
    if reply.status >= 400:
        print(f"not flushed: {answer['detail']}")
        return 1
    what = f"{options.model}/{options.version}" if options.version else f"all versions of {options.model}"
    print(f"flushed {what}: {answer['workers']} workers left its answers behind, {answer['pending']} hang")
    return int(answer["pending"] > 0)

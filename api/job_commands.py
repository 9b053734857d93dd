"""`python -m api jobs submit | watch | results | cancel | requeue | list`: jobs from the command line, over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

_MEDIA_TYPES = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
_SUFFIXES = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
_PIECE_BYTES = 64 * 1024
_TIMEOUT_SECONDS = 60
_TRIES = 5
_BAR_CHARACTERS = 30
# `make run`, then Compose: in development, and in production where no TLS is before it.
_URLS = ("http://127.0.0.1:8080", "http://127.0.0.1:8000", "http://127.0.0.1")


def add(commands: Any) -> None:
    """Adds the command `jobs` to the parser of `python -m api`."""
    jobs = commands.add_parser(
        "jobs",
        help="predictions of many rows: submit, watch, results, cancel, requeue, list",
        description="Predictions of many rows, asked of a running Shoal.",
    )
    jobs.add_argument(
        "--url", type=_url, help=f"of Shoal (default: the first of {', '.join(_URLS)} where somebody listens)"
    )
    jobs.add_argument("--header", action="append", default=[], metavar="NAME: VALUE", help="sent along; repeatable")
    actions = jobs.add_subparsers(required=True, metavar="action")

    submit = actions.add_parser("submit", help="upload rows from a file; prints the job's id")
    submit.add_argument("file", help="of rows: .json, .ndjson, .jsonl or .csv; - for standard input")
    submit.add_argument("--format", choices=_MEDIA_TYPES, help="default: by the file's suffix")
    submit.add_argument("--model")
    submit.add_argument("--version")
    submit.add_argument("--priority", choices=("low", "normal", "high"))
    submit.add_argument("--callback-url", metavar="URL")
    submit.add_argument("--key", help="Idempotency-Key (default: a new one)")
    submit.add_argument("--watch", action="store_true", help="and watch it until it has ended")
    submit.set_defaults(run=_submit)

    for name, run, text in (
        ("watch", _watch, "show progress until it has ended; exit status 1 unless all of it is done"),
        ("cancel", _cancel, "cancel it, also while it runs"),
        ("requeue", _requeue, "try what was given up again"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("job", help="its id")
        action.set_defaults(run=run)

    results = actions.add_parser("results", help="print the answers")
    results.add_argument("job", help="its id")
    results.add_argument("--format", choices=("ndjson", "csv"), default="ndjson")
    results.add_argument("--partial", action="store_true", help="what there is of one that has not ended")
    results.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    results.set_defaults(run=_results)

    listing = actions.add_parser("list", help="print the newest jobs")
    listing.add_argument("--state", choices=("queued", "running", "done", "failed", "cancelled"))
    listing.set_defaults(run=_list)


# --- actions ----------------------------------------------------------------------------------------------------------
def _submit(options: argparse.Namespace) -> int:
    form = options.format or _SUFFIXES.get(Path(options.file).suffix)
    if form is None:
        raise ValueError(f"--format is needed for {options.file}: one of {', '.join(_MEDIA_TYPES)}")
    wanted = {name: getattr(options, name) for name in ("model", "version", "priority", "callback_url")}
    path = "/jobs?" + urlencode({name: value for name, value in wanted.items() if value is not None})
    headers = {"Content-Type": _MEDIA_TYPES[form], "Idempotency-Key": options.key or str(uuid.uuid4())}
    is_file = options.file != "-"
    if is_file:
        headers["Content-Length"] = str(Path(options.file).stat().st_size)
    # Sent again with the same key it is the same job, so an upload that broke off is simply begun anew.
    for left in range(_TRIES if is_file else 1, 0, -1):
        try:
            with contextlib.ExitStack() as stack:
                rows = stack.enter_context(Path(options.file).open("rb")) if is_file else sys.stdin.buffer
                size = int(headers.get("Content-Length", 0))
                with _asked(options, "POST", path, _uploaded(rows, size), headers) as answer:
                    job = json.load(answer)
            break
        except (OSError, http.client.HTTPException, _TryAgain) as error:
            if left == 1:
                raise ValueError(f"the upload failed: {error}") from error
            _say(f"the upload broke off ({error}), and is begun anew")
            time.sleep(getattr(error, "after_seconds", 1))
    _say(f"{job['rows']} rows for {job['model']}/{job['version']}")
    print(job["id"], flush=True)
    options.job = job["id"]
    return _watch(options) if options.watch else 0


def _watch(options: argparse.Namespace) -> int:
    job: dict[str, Any] = {}
    while not job.get("finished_at"):
        try:
            with _asked(options, "GET", f"/jobs/{options.job}/events") as answer:
                for line in answer:
                    if line.startswith(b"data: "):
                        job = json.loads(line.removeprefix(b"data: "))
                        _draw(job)
        except (OSError, http.client.HTTPException, _TryAgain) as error:
            # A replica that stopped, or is away for a moment; the next one begins with how things are.
            _say(f"waiting: {error}")
        if not job.get("finished_at"):
            time.sleep(0.5)
    failed = f", {job['rows_failed']} of them failed by themselves" if job["rows_failed"] else ""
    _say(f"{job['state']}: {job['rows_done']} of {job['rows']} rows{failed}")
    return int(job["state"] != "done")


def _results(options: argparse.Namespace) -> int:
    following = 0
    with contextlib.ExitStack() as stack:
        output: BinaryIO = stack.enter_context(options.output.open("wb")) if options.output else sys.stdout.buffer
        for left in range(_TRIES, 0, -1):
            wanted = {"format": options.format, "offset": following, "partial": str(options.partial).lower()}
            try:
                with _asked(options, "GET", f"/jobs/{options.job}/results?{urlencode(wanted)}") as answer:
                    is_head = options.format == "csv"
                    for line in answer:
                        if not line.endswith(b"\n"):
                            raise http.client.IncompleteRead(line)
                        if not is_head:
                            following = _row(line) + 1
                        if not is_head or following == 0:
                            output.write(line)
                        is_head = False
                break
            except (OSError, http.client.HTTPException, _TryAgain) as error:
                if left == 1:
                    raise ValueError(f"the answers broke off at row {following}: {error}") from error
                time.sleep(1)
        output.flush()
    return 0


def _row(line: bytes) -> int:
    """Index of its row: the first field in either format."""
    return int(line.removeprefix(b'{"row":').partition(b",")[0])


def _cancel(options: argparse.Namespace) -> int:
    with _asked(options, "DELETE", f"/jobs/{options.job}") as answer:
        job = json.load(answer)
    _say(f"{job['state']}: {job['rows_done']} of {job['rows']} rows were done")
    return 0


def _requeue(options: argparse.Namespace) -> int:
    with _asked(options, "POST", f"/jobs/{options.job}/requeue") as answer:
        job = json.load(answer)
    _say(f"{job['state']}: {job['rows'] - job['rows_done']} rows are to be done")
    return 0


def _list(options: argparse.Namespace) -> int:
    wanted = urlencode({"state": options.state}) if options.state else ""
    with _asked(options, "GET", f"/jobs?{wanted}") as answer:
        for job in json.load(answer)["jobs"]:
            print(
                f"{job['id']}  {job['created_at'][:19]}  {job['state']:9}  {job['model']}/{job['version']}"
                f"  {job['rows_done']} of {job['rows']} rows"
            )
    return 0


# --- over HTTP --------------------------------------------------------------------------------------------------------
class _TryAgain(Exception):
    """The server says that the same request may succeed later."""

    def __init__(self, detail: str, after_seconds: float) -> None:
        super().__init__(detail)
        self.after_seconds = after_seconds


@contextlib.contextmanager
def _asked(
    options: argparse.Namespace,
    method: str,
    path: str,
    body: Iterator[bytes] | None = None,
    headers: dict[str, str] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """The answer. Raises ValueError where it is a problem that trying again does not solve."""
    if options.url is None:
        options.url = _found()
    parts = urlsplit(options.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)
    more = dict(header.split(": ", 1) for header in options.header if ": " in header)
    try:
        connection.request(method, parts.path.rstrip("/") + path, body, {**more, **(headers or {})})
        answer = connection.getresponse()
        if answer.status >= 400:
            detail = f"{answer.status}: {_detail(answer.read())}"
            after = answer.headers.get("Retry-After")
            if answer.status in (502, 504) or after is not None:
                raise _TryAgain(detail, float(after or 1))
            raise ValueError(detail)
        yield answer
    finally:
        connection.close()


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"expected http://host[:port] or https://host[:port], got {text!r}")
    return text


def _found() -> str:
    for url in _URLS:
        parts = urlsplit(url)
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", parts.port or 80), 1):
            return url
    raise ValueError(f"nobody listens at {', '.join(_URLS)}; start Shoal, or say with --url where it is")


def _detail(body: bytes) -> str:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(body)["detail"])
    return body[:200].decode("utf-8", "replace")


def _uploaded(rows: BinaryIO, size: int) -> Iterator[bytes]:
    """Pieces of a file, with a bar for how far it is. size: 0 where nobody knows."""
    sent = 0
    while piece := rows.read(_PIECE_BYTES):
        yield piece
        sent += len(piece)
        if size:
            _line(f"{_bar(sent / size)} {sent / 1e6:.1f} of {size / 1e6:.1f} MB sent")
    _line("")


# --- the terminal -----------------------------------------------------------------------------------------------------
def _draw(job: dict[str, Any]) -> None:
    rate = f", {job['rows_per_second']:.0f} rows/s" if job["rows_per_second"] else ""
    left = f", {job['eta_seconds']:.0f} s left" if job["eta_seconds"] else ""
    share = job["rows_done"] / job["rows"]
    _line(f"{_bar(share)} {share:4.0%} {job['state']}: {job['rows_done']} of {job['rows']} rows{rate}{left}")


def _bar(share: float) -> str:
    full = round(share * _BAR_CHARACTERS)
    return f"[{'#' * full}{'.' * (_BAR_CHARACTERS - full)}]"


def _line(text: str) -> None:
    """In place of the one before. Only for people: not where standard error goes to a file."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _say(text: str) -> None:
    _line("")
    print(text, file=sys.stderr, flush=True)

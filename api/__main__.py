"""From the command line: `python -m api export | check | digest` for models, `flush` for their cached answers,
`jobs` for predictions of many rows, `keys` for those who may ask."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from dotenv import load_dotenv
from pydantic import ValidationError

from api import flush_command, job_commands
from api.access.command import add_keys
from api.models.manifest import TOLERANCES, Manifest, VersionManifest
from api.models.repository import MODEL_FILE, Repository, in_one_line, read_manifest, sha256_of
from api.settings import Settings

if TYPE_CHECKING:
    import torch

_NOT_STATED = "not stated"
_OF_A_NEW_MODEL = (
    "example", "task", "classes", "outputs", "feature_names", "description", "preprocessing", "data", "licence",
)  # fmt: skip

_EPILOG = """\
examples:
  python -m api export iris:trained --name iris --example '[5.1, 3.5, 1.4, 0.2]' \\
      --task classification --classes setosa,versicolor,virginica --softmax
  python -m api export iris:retrained --name iris --default     # the next version, the same manifest
  python -m api check
  python -m api flush iris
  python -m api jobs submit flowers.csv --model iris --watch
  python -m api keys add alice
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where the answer is no, 2 where the question was wrong."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except ValidationError as error:
        return _fail(in_one_line(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        return _fail(str(error))
    return status


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m api",
        description="Look after the models that Shoal serves, and those who may ask them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_export(commands)
    check = commands.add_parser(
        "check",
        help="verify a repository",
        description="Loads and runs every version as a server would. Exit status 1 if one would be refused.",
    )
    _add_repository(check)
    check.set_defaults(run=_check)
    digest = commands.add_parser(
        "digest",
        help="print the sha256 that version.yaml needs",
        description="Prints the sha256 of artefacts, as `sha256sum` does: what version.yaml must say.",
    )
    digest.add_argument("files", nargs="+", type=Path, metavar="FILE")
    digest.set_defaults(run=_digest)
    flush_command.add(commands, Settings().admin_token_file)
    job_commands.add(commands)
    add_keys(commands, Settings().keys_file)
    return parser


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository",
        type=Path,
        default=Settings().model_repository,
        metavar="DIR",
        help="the model repository (default: SHOAL_MODEL_REPOSITORY, or the one that is shipped: %(default)s)",
    )


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="export a torch.nn.Module and add it to the repository",
        description="Exports a torch.nn.Module with torch.export, checks that the program agrees with the module, and"
        " adds it to the repository as a new model or as the next version of one. The module maps float32 (rows,"
        " *shape) to (rows, width), for any number of rows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = export.add_argument
    add("module", metavar="module:attr", help="a module, or a class or function that returns one, to be imported")
    add("--name", required=True, help="of the model")
    add("--version", help="default: one more than the highest there is")
    add("--default", action="store_true", help="answer with this version where a request names none")
    _add_repository(export)
    add("--softmax", action="store_true", help="the module gives logits: append a softmax")
    add("--max-batch-rows", type=int, metavar="N", help="most rows that the module takes at once; default: any number")
    add("--note", metavar="TEXT", help="what tells this version from the others")
    add("--metric", action="append", default=[], metavar="NAME=NUMBER", help="measured on rows held out; repeatable")

    model = export.add_argument_group(
        "a new model", "Needed where no model of that name is in the repository; otherwise its manifest stays as it is."
    )
    add = model.add_argument
    add("--example", metavar="ROW", help="one row as a request would have it: JSON, or a .json or .npy file")
    add("--task", choices=("classification", "regression"))
    add("--classes", metavar="A,B,…", help="labels of a classification, in the order of its outputs")
    add("--outputs", metavar="NAME[:UNIT],…", help="values of a regression, in the order of its outputs")
    add("--feature-names", metavar="NAME[:UNIT],…", help="what each number of a row is")
    add("--description", metavar="TEXT", help="what it predicts, in a sentence")
    add("--preprocessing", metavar="TEXT", help="what the module does with the numbers as they come")
    add("--data", metavar="TEXT", help="what it was trained on")
    add("--licence", metavar="TEXT", help="the terms that the data comes under")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    known = _known(options)
    version = options.version or _next_version(options.repository / options.name)
    manifest = known or _new_manifest(options, version)
    if options.default:
        manifest = manifest.model_copy(update={"default_version": version})
    # What can be wrong with the words is found before torch takes its seconds.
    manifest = Manifest.model_validate(manifest.model_dump())
    version_fields = _version_fields(options)
    VersionManifest(sha256="0" * 64, **version_fields)

    from api.models import export  # torch takes a second to import

    module = _imported(options.module)
    if options.softmax:
        module = export.WithSoftmax(module)
    archive = export.export(module, np.array(manifest.example, dtype=np.float32), options.max_batch_rows)
    added, difference = export.publish(options.repository, manifest, version, archive, version_fields, original=module)
    print(f"exported {options.module}, {len(archive)} bytes, sha256 {added.version_manifest.sha256}")
    allowed = TOLERANCES[manifest.input.dtype]
    print(f"agrees with the module to {difference:.1e} of its largest output (allowed: {allowed:.0e})")
    print(f"added {added.name}/{added.version} to {options.repository}; servers take it up when they start")
    return 0


def _known(options: argparse.Namespace) -> Manifest | None:
    """The model's manifest, where there is one already."""
    directory = options.repository / options.name
    if not (directory / MODEL_FILE).exists():
        return None
    if given := [f"--{option.replace('_', '-')}" for option in _OF_A_NEW_MODEL if getattr(options, option) is not None]:
        raise ValueError(f"{options.name} exists and its manifest stays as it is: leave out {', '.join(given)}")
    return read_manifest(directory)


def _new_manifest(options: argparse.Namespace, version: str) -> Manifest:
    needed = {"--example": options.example, "--task": options.task}
    if options.task != "regression":
        needed["--classes" if options.task else "--classes or --outputs"] = options.classes or None
    else:
        needed["--outputs"] = options.outputs
    if missing := [option for option, value in needed.items() if value is None]:
        raise ValueError(f"{options.name} is a new model, which needs {', '.join(missing)}")
    row = _row(options.example)
    fields = {
        "name": options.name,
        "description": options.description or f"{options.module}, exported.",
        "task": options.task,
        "input": {"name": "rows", "dtype": "float32", "shape": row.shape, "features": _named(options.feature_names)},
        "classes": options.classes and [label.strip() for label in options.classes.split(",")],
        "outputs": _named(options.outputs),
        "preprocessing": options.preprocessing or "None that was stated; whatever the module does.",
        "default_version": version,
        "data": {"name": options.data or _NOT_STATED, "licence": options.licence or _NOT_STATED},
        "example": row.tolist(),
    }
    return Manifest.model_validate(fields)


def _version_fields(options: argparse.Namespace) -> dict[str, Any]:
    metrics = {}
    for metric in options.metric:
        name, separator, number = metric.partition("=")
        if not separator:
            raise ValueError(f"--metric {metric}: expected NAME=NUMBER")
        metrics[name] = float(number)
    return {
        "description": options.note or f"Exported from {options.module}.",
        "created": datetime.datetime.now(datetime.UTC).date(),
        "metrics": metrics,
        "training": f"Not by Shoal; exported from {options.module}.",
        "max_batch_rows": options.max_batch_rows,
    }


def _row(example: str) -> npt.NDArray[np.float64]:
    """One row, from JSON or from a file."""
    try:
        if example.endswith(".npy"):
            row = np.load(example, allow_pickle=False)
        else:
            row = json.loads(Path(example).read_text() if example.endswith(".json") else example)
        row = np.array(row, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--example: expected a list of numbers, nested evenly: {error}") from error
    if row.ndim == 0 or row.size == 0 or not np.isfinite(row).all():
        raise ValueError(f"--example: expected a list of finite numbers, got the shape {list(row.shape)}")
    return row


def _named(text: str | None) -> list[dict[str, str]] | None:
    """`bill:mm,mass:g` as names and units."""
    if text is None:
        return None
    pairs = [[part.strip() for part in item.split(":", 1)] for item in text.split(",")]
    return [dict(zip(("name", "unit"), pair, strict=False)) for pair in pairs]


def _next_version(directory: Path) -> str:
    taken = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return str(max((int(name) for name in taken if name.isdecimal()), default=0) + 1)


def _imported(path: str) -> torch.nn.Module:
    from torch import nn

    name, separator, attribute = path.partition(":")
    if not separator:
        raise ValueError(f"expected module:attr, got {path!r}")
    try:
        found: Any = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
        if not isinstance(found, nn.Module):
            found = found()
    except Exception as error:  # the user's own code
        raise ValueError(f"{path} cannot be had: {type(error).__name__}: {error}") from error
    if not isinstance(found, nn.Module):
        raise ValueError(f"{path} is {type(found).__name__}, expected a torch.nn.Module or what returns one")
    return found


def _check(options: argparse.Namespace) -> int:
    from api.errors import ModelFailed
    from api.models.runtime import InvalidArtefact, Program

    repository = Repository.open(options.repository)
    verdicts = {refusal.path: f"refused  {refusal.reason}" for refusal in repository.refusals}
    refused = bool(verdicts)
    for version in repository.versions.values():
        path = f"{version.name}/{version.version}"
        try:
            seconds = Program.load(version).warm_up(version.version_manifest.max_batch_rows or 64)
        except (InvalidArtefact, ModelFailed) as error:
            verdicts[path] = f"refused  {error}"
            refused = True
        else:
            verdicts[path] = f"ok       {seconds * 1e6:.0f} us a row, sha256 {version.version_manifest.sha256[:12]}…"
    width = max(map(len, verdicts), default=0)
    for path in sorted(verdicts):
        print(f"{path:{width}}  {verdicts[path]}")
    if not verdicts:
        print(f"no model in {options.repository}")
    return int(refused or not verdicts)


def _digest(options: argparse.Namespace) -> int:
    for file in options.files:
        print(f"{sha256_of(file)}  {file}")
    return 0


if __name__ == "__main__":
    load_dotenv(".env")  # as `make run` and compose do; what the shell has set wins
    sys.exit(main())

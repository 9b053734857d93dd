"""Artefacts without code: what is taken from a .pt2 archive, and what is refused.

An archive of `torch.export.save` is a zip of raw weights, a program as JSON, and pickles. Loading it as it comes runs
whatever it holds: example inputs are unpickled, and so are weights that say they are; expressions of the program go
through `eval` (sympy.sympify), its names stand unquoted in generated Python, and an operator may be any attribute of
torch, `torch.os.system` included (torch 2.13: export/pt2_archive/_package.py and _export/serde/serialize.py).

So torch never sees the file. We take out the three JSON documents and the raw weights, check every string of the
program against what a program needs, and write a new archive of these alone. Traces of the source go too, as they
hold the paths of the machine that exported it. The same program gives the same bytes, so an export can be reproduced.
No torch here.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/"
CONSTANTS = "data/constants/"
CONFIGS = (WEIGHTS + "model_weights_config.json", CONSTANTS + "model_constants_config.json")

_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_NAME = re.compile(r"[\w.+-]*", re.ASCII)  # nothing that calls, assigns or quotes

# All of aten computes on tensors but these two, which read and write files.
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!(?:save|from_file)\.)(?:_?[a-z]\w*|__(?:and|or|xor|lshift|rshift)__)\.[A-Za-z]\w*"
    # Control flow, and the regions that torch.no_grad() and autocast leave behind.
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    # Arithmetic on the number of rows.
    r"|torch\.sym_(?:not|int|float|ite|max|min|sqrt)|math\.(?:trunc|ceil|floor)"
    r"|_operator\.(?:eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|lshift|rshift|getitem)",
    re.ASCII,
)
# An expression in the number of rows, as sympy's srepr writes it: Add(Symbol('s0', positive=True), Integer(1)).
_EXPRESSION = re.compile(
    r"(?:'[suzf]+\d+'|\b(?:Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not"
    r"|Equality|Unequality|LessThan|StrictLessThan|GreaterThan|StrictGreaterThan|positive|nonnegative|integer|real"
    r"|true|false|True|False|FloorDiv|Mod|PythonMod|CleanDiv|CeilDiv|CeilToInt|FloorToInt|IntTrueDiv|FloatTrueDiv"
    r"|PowByNatural|ModularIndexing|Where|ToFloat|TruncToInt|Identity|[su]\d+)\b|\b\d+\b|[-+*/(),=<> ])*",
    re.ASCII,
)
_TREE_TYPES = ("builtins.tuple", "builtins.list", "builtins.dict", None)


class Unsafe(ValueError):
    """Not an archive of a plain exported program, or one that might run code. The message is one line."""


def clean(archive: bytes) -> bytes:
    """The archive with nothing in it but raw weights and a program of known operators; the same bytes for the same
    program.

    Raises:
        Unsafe: it is broken, or there is something in what it needs that could run code.
    """
    try:
        members = _members(archive)
        documents = {name: json.loads(members[name]) for name in (PROGRAM, *CONFIGS)}
        kept = {name: _dumped(document) for name, document in zip(CONFIGS, map(documents.get, CONFIGS), strict=True)}
        kept[PROGRAM] = _dumped(_cleaned(documents[PROGRAM]))
        for config, directory in zip(CONFIGS, (WEIGHTS, CONSTANTS), strict=True):
            for name in _payloads(documents[config]):
                kept[directory + name] = members[directory + name]
    except KeyError as error:
        raise Unsafe(f"no {error.args[0]} in it: not a program that torch 2.13 exported") from error
    except RecursionError as error:
        raise Unsafe("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise Unsafe("its JSON is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Unsafe(f"its JSON is broken: {error}") from error
    return _zipped(kept)


def _members(archive: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            members = {}
            for member in opened.infolist():
                _, _, name = member.filename.partition("/")
                if name in members:
                    raise Unsafe(f"two members are called {name[:64]!r}")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise Unsafe("it is compressed, which torch.export.save never does")
                members[name] = opened.read(member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as error:
        if isinstance(error, Unsafe):
            raise
        raise Unsafe(f"not an archive, or a broken one: {error}") from error
    if members.get("archive_format") != b"pt2" or members.get("byteorder", b"little") != b"little":
        raise Unsafe("an archive, but not of torch.export")
    return members


def _payloads(config: Any) -> list[str]:
    """The names of the weights in a config."""
    try:
        entries = config["config"].items()
        payloads = []
        for name, entry in entries:
            if entry["use_pickle"] is not False or not _PAYLOAD.fullmatch(entry["path_name"]):
                raise Unsafe(f"the weight {name[:64]!r} is pickled, and nothing pickled is loaded")
            payloads.append(entry["path_name"])
    except (TypeError, AttributeError, KeyError) as error:
        raise Unsafe("its list of weights is broken") from error
    return payloads


def _cleaned(value: Any, key: str = "") -> Any:
    """A part of the program, every string in it checked."""
    if isinstance(value, dict):
        cleaned = {}
        is_node = isinstance(value.get("target"), str)
        for name, item in value.items():
            _check(_NAME, name, "name")
            if name == "metadata" and (is_node or "graph" in value):
                item = {}  # stack traces and names of modules: nothing that is computed
            elif name == "guards_code":
                item = []  # Python source; runtime.py checks what it says of the input in its own way
            cleaned[name] = _cleaned(item, name)
        return cleaned
    if isinstance(value, list):
        return [_cleaned(item, key) for item in value]
    if isinstance(value, str):
        return _checked(value, key)
    return value


def _checked(text: str, key: str) -> str:
    if key in ("target", "as_operator"):
        _check(_OPERATOR, text, "operator")
    elif key == "expr_str":
        _check(_EXPRESSION, text, "expression")
    elif key in ("in_spec", "out_spec"):
        _check_tree(json.loads(text)[1])
    elif key not in ("as_string", "as_strings"):  # arguments such as einsum's: quoted wherever they go
        _check(_NAME, text, "name")
    return text


def _check(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise Unsafe(f"its program has the {what} {text[:64]!r}, which is not one of those that are known to be safe")


def _check_tree(tree: Any) -> None:
    """How arguments nest. Other types than these name modules to import."""
    try:
        kind, context, children = tree["type"], tree["context"], tree["children_spec"]
        keys = [] if context is None else json.loads(context) or []
        if kind not in _TREE_TYPES or not all(isinstance(name, str) for name in keys):
            raise Unsafe(f"its arguments nest in {str(kind)[:64]!r}, not in plain lists, tuples and dicts")
        for child in children:
            _check_tree(child)
    except (TypeError, KeyError, IndexError) as error:
        raise Unsafe("the description of its arguments is broken") from error


def _dumped(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _zipped(members: dict[str, bytes]) -> bytes:
    """A torch archive. What torch insists on is added: its example inputs are empty, so nothing is unpickled."""
    members = members | {
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"6\n",
        "byteorder": b"little",
        "data/sample_inputs/model.pt": b"",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            # A ZipInfo is dated 1980, whatever the day.
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), members[name])
    return buffer.getvalue()

"""The file of API keys, and the commands that keep it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from api.__main__ import main
from api.access.keys import UnreadableKeys, add_key, digest_of, read_keys, revoke_keys

DIGEST = "ab" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_a_key_is_printed_once_and_only_its_hash_is_kept(file: Path) -> None:
    key = add_key(file, "alice")

    assert key.startswith("shoal_")
    assert len(key) == 49
    assert key.removeprefix("shoal_") not in file.read_text()
    [kept] = read_keys(file)
    assert (kept.name, kept.digest) == ("alice", digest_of(key.encode()))
    assert file.stat().st_mode & 0o777 == 0o644


def test_a_key_is_replaced_by_a_second_one_of_its_name(file: Path) -> None:
    add_key(file, "alice")
    add_key(file, "bob")
    new = add_key(file, "alice")
    old = read_keys(file)[0]

    assert revoke_keys(file, "alice", old.id) == 1

    assert [key.name for key in read_keys(file)] == ["bob", "alice"]
    assert read_keys(file)[1].digest == digest_of(new.encode())
    assert revoke_keys(file, "alice", old.id) == 0
    assert revoke_keys(file, "alice") == 1
    assert [key.name for key in read_keys(file)] == ["bob"]


def test_what_people_wrote_into_the_file_stays(file: Path) -> None:
    file.write_text(f"# ours\n\nalice {DIGEST}\n")

    add_key(file, "bob")
    revoke_keys(file, "alice")

    assert file.read_text().startswith("# ours\n\nbob ")


def test_keys_that_are_added_at_once_are_all_kept(file: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(file, f"key-{number}")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(read_keys(file)) == 8
    assert [path.name for path in file.parent.iterdir()] == ["keys"]


@pytest.mark.parametrize("name", ["", "admin", "a b", "-a", "a" * 65, "é", "a\n", 'a"'])
def test_a_name_that_would_be_trouble_in_a_label_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        add_key(file, name)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("alice", "line 2 is no name and SHA-256"),
        ("alice shoal_secret-itself", "line 2 is no name and SHA-256"),
        (f"admin {DIGEST}", "line 2 is no name and SHA-256"),
        (f"alice {DIGEST.upper()}", "line 2 is no name and SHA-256"),
        (f"alice {DIGEST[:-1]}", "line 2 is no name and SHA-256"),
        ("\n".join(f"key{n} {DIGEST}" for n in range(1000)), "at most 1000 keys, got 1001"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_without_repeating_it(file: Path, line: str, what: str) -> None:
    file.write_text(f"bob {DIGEST}\n{line}\n")

    with pytest.raises(UnreadableKeys, match=what) as refused:
        read_keys(file)
    assert "secret" not in str(refused.value)
    with pytest.raises(UnreadableKeys):
        add_key(file, "alice")  # nor does it overwrite what it does not understand


def test_a_file_that_is_not_there_or_no_text_is_said(file: Path) -> None:
    with pytest.raises(UnreadableKeys, match="No such file"):
        read_keys(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UnreadableKeys, match="no text"):
        read_keys(file)


def test_the_commands_keep_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--file", str(file))

    assert main(["keys", "add", "alice", *where]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("shoal_")
    assert "shown this once" in said.err
    assert main(["keys", "list", *where]) == 0
    assert capsys.readouterr().out.split()[0] == "alice"
    assert main(["keys", "revoke", "alice", "--id", "00000000", *where]) == 1
    assert main(["keys", "revoke", "alice", *where]) == 0
    assert capsys.readouterr().out.endswith("revoked 1 key of alice\n")
    assert main(["keys", "list", *where]) == 0
    assert capsys.readouterr().out == f"no key in {file}\n"
    assert main(["keys", "add", "a b", *where]) == 2
    assert main(["keys", "list", "--file", str(file.parent / "none")]) == 2
    assert "No such file" in capsys.readouterr().err

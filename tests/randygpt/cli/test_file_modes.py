"""Modes of all files and folders that commands make, whatever the umask."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.models import TEXT
from support.scripted_relay import relay_on_thread

from distribution.journal import Journal
from randygpt.cli.main import run
from relay_client import durable

SECRET = {"state/journal.sqlite", "keys/nsec"}


@pytest.fixture(params=[0o000, 0o002], ids=["umask 000", "umask 002"])
def loose(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    try:
        yield
    finally:
        os.umask(before)


def writable_by_others(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    return [str(path.relative_to(folder)) for path in paths if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]


@pytest.mark.usefixtures("loose")
def test_no_umask_makes_a_file_writable_by_others(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at_home / "train.txt").write_text(TEXT * 300, encoding="utf-8")
    (at_home / "train.txt").chmod(0o644)
    shape = ("--dim", "16", "--heads", "2", "--layers", "1", "--batch", "2")
    assert run(["train", *shape, "--iters", "1", "--checkpoint", "m", "--quiet"]) == 0
    with relay_on_thread() as relay:
        assert run(["keys", "new"]) == 0
        capsys.readouterr()
        assert run(["publish", "m.bin", "--name", "m", "--relay", relay.url, "--json"]) == 0
        release = json.loads(capsys.readouterr().out)["nevent"]
        assert run(["fetch", release, "--relay", relay.url, "--quiet"]) == 0
    assert run(["export", "m.bin", "exported"]) == 0
    assert run(["plot", "m"]) == 0
    assert len([*at_home.rglob("*")]) > 25
    assert writable_by_others(at_home) == []
    for name in SECRET:
        assert stat.S_IMODE((at_home / name).stat().st_mode) == 0o600


@pytest.mark.usefixtures("loose")
def test_files_and_folders_are_made_with_explicit_modes(tmp_path: Path) -> None:
    folder = durable.make_directory(tmp_path / "a" / "b")
    with durable.atomic_directory(tmp_path / "whole") as building:
        durable.write(building / "file", b"")
    durable.open_to_append(folder / "log").close()
    assert writable_by_others(tmp_path) == []


def test_older_journal_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.touch(0o644)
    with Journal(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

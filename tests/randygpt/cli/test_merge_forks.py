"""`randygpt merge --forks`: forks by trusted authors, after a confirmation."""

import asyncio
import json
from pathlib import Path

import pytest
from support.command import only_line
from support.forks import FRIEND, Family, b_tag, change
from support.scripted_relay import ScriptedRelay
from support.terminal import Typist

from distribution.trust_list import TrustStore
from randygpt.cli.main import run


@pytest.fixture
def family(at_home: Path, threaded_relay: ScriptedRelay) -> Family:
    """A family whose releases are on the relay too; the friend who signed the forks is trusted."""
    made = Family(at_home)
    share(made, threaded_relay)
    asyncio.run(TrustStore(at_home).add(FRIEND.pubkey, "ben"))
    (at_home / "relays.json").write_text(json.dumps([threaded_relay.url]), encoding="utf-8")
    return made


def share(made: Family, relay: ScriptedRelay) -> None:
    for release in made.friend.store.releases():
        event = json.loads((release.folder / "release.json").read_bytes())["event"]
        relay.events[event["id"]] = event


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["merge", "--out", "x", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_forks_by_trusted_authors_are_merged(
    family: Family, threaded_relay: ScriptedRelay, capsys: pytest.CaptureFixture[str]
) -> None:
    family.author.install(name="stranger", tags=(b_tag(family.base),))
    merged = (b_tag(family.base), *(b_tag(each, "merged") for each in family.forks))
    family.fork("already-merged", change(9), merged)
    newer = family.fork("fork1", 2 * change(1))
    share(family, threaded_relay)
    assert run(["merge", "--forks", "base", "--trusted", "--robust", "--yes", "--out", "next", "--json"]) == 0
    found = json.loads(only_line(capsys.readouterr().out))
    assert found["base"] == family.base.id.hex()
    expected = {each.id.hex() for each in (newer, *family.forks[1:], family.liar)}
    assert {each["release"] for each in found["inputs"]} == expected
    assert [each["release"] for each in found["inputs"] if each["left_out"]] == [family.liar.id.hex()]


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 2)])
def test_merge_of_forks_is_confirmed_at_a_terminal(
    family: Family, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin", Typist(answer))
    assert run(["merge", "--forks", family.base.id.hex(), "--trusted", "--out", "next"]) == code
    err = capsys.readouterr().err
    assert err.count("fork  ") == 4
    assert "Merge these 4 forks of base version 1? [y/N]" in err
    assert Path("next.bin").exists() == (code == 0)


@pytest.mark.usefixtures("family")
def test_mistakes_name_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert "about to fetch and merge 4 forks of base version 1; pass --yes" in refused(
        capsys, "--forks", "base", "--trusted"
    )
    assert "pass --trusted, or name the models" in refused(capsys, "--forks", "base", "--yes")
    assert "no fork of liar version 4 by authors on your trust list" in refused(
        capsys, "--forks", "liar", "--trusted", "--yes"
    )
    assert "--forks excludes --base and --weights" in refused(capsys, "--forks", "base", "--weights", "1,1")
    assert "--forks excludes models: name the models, or the release" in refused(capsys, "--forks", "base", "fork1")
    assert "--trusted and --yes are for --forks" in refused(capsys, "fork1", "fork2", "--trusted")
    assert "name the models to merge, or the release whose forks" in refused(capsys)

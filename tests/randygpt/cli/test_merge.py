"""`randygpt merge`: the common base, what is refused, figures on a text, and what the result records."""

import asyncio
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import only_line
from support.forks import FRIEND, Family, b_tag, change
from support.models import CONFIG, TEXT, write_tiny
from support.release_store import checkpoint, weights

from distribution.errors import StoreError
from distribution.seen_versions import SeenVersions
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import read_checkpoint, write_checkpoint
from randygpt.checkpoint.sidecar import inspect_checkpoint, read_sidecar
from randygpt.cli.card import bits_cell
from randygpt.cli.main import run
from randygpt.merging import MergeSource, ModelMerge
from randygpt.model.merge import MergeRule
from relay_client.nip19 import encode_npub


@pytest.fixture
def family(at_home: Path) -> Family:
    return Family(at_home)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["merge", *words, "--json"]) == 0
    result: dict[str, Any] = json.loads(only_line(capsys.readouterr().out))
    return result


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["merge", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return only_line(err)


def test_average_of_the_forks(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "fork1", "fork2", "fork3", "--out", "both")
    data = Path("both.bin").read_bytes()
    assert found == {
        "out": "both.bin",
        "sha256": hashlib.sha256(data).hexdigest(),
        "base": family.base.id.hex(),
        "inputs": [
            {"release": each.id.hex(), "author": encode_npub(FRIEND.pubkey), "left_out": False, "reason": ""}
            for each in sorted(family.forks, key=lambda each: each.id)
        ],
        "eval": None,
    }
    info = inspect_checkpoint(Path("both.bin"))
    merged = read_checkpoint(info.path, info.config)
    np.testing.assert_allclose(merged.weights, weights(1) + sum(map(change, (1, 2, 3))) / 3, atol=1e-6)
    assert merged.optimizer_state is None


def test_order_and_names_do_not_change_the_file(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [each.id.hex() for each in family.forks]
    one = said(capsys, *ids, "--weights", "3,2,1", "--out", "one")
    other = said(capsys, "fork3", "fork1", "fork2", "--weights", "0.5,1.5,1", "--base", "base", "--out", "other.bin")
    assert one["sha256"] == other["sha256"]
    assert Path("one.bin").read_bytes() == Path("other.bin").read_bytes()
    assert Path("one.json").read_bytes() == Path("other.json").read_bytes()


def test_sidecar_records_the_merge(family: Family) -> None:
    words = ["fork1", "fork2", "fork3", "liar", "--robust", "--scale", "0.5", "--weights", "2,2,2,1"]
    assert run(["merge", *words, "--out", "safe", "--quiet"]) == 0
    sidecar = read_sidecar(Path("safe.bin"))
    assert sidecar is not None
    assert sidecar.name == "base"
    assert sidecar.base == Origin(release=family.base.id, author=family.base.author)
    assert [each.release for each in sidecar.merged] == sorted(each.id for each in family.forks)
    assert sidecar.merge is not None
    assert sidecar.merge.to_json() == {
        "weights": [2, 2, 2],
        "scale": "0.5",
        "robust": True,
        "left_out": [
            {
                "release": family.liar.id.hex(),
                "author": family.liar.author.hex(),
                "relay": "",
                "weight": 1,
                "reason": "points away from the sum of the others",
            }
        ],
    }


def test_show_names_what_a_merge_was_made_from(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "fork1", "fork2", "--out", "both")
    assert run(["show", "both.bin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["file", "name"]
    assert lines[2].startswith(f"made from   base {family.base.id.hex()} by npub1")
    assert {line.split()[1] for line in lines[3:5]} == {each.id.hex() for each in family.forks[:2]}
    assert lines[5].startswith("format")
    assert run(["show", "both", "--json"]) == 0
    roles = [each["role"] for each in json.loads(capsys.readouterr().out)["ancestors"]]
    assert roles == ["base", "merged", "merged"]


@pytest.mark.usefixtures("family")
def test_left_out_input_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", "fork1", "fork2", "fork3", "liar", "--robust", "--out", "safe"]) == 0
    assert "left out  liar version 4 by npub1" in capsys.readouterr().out
    found = said(capsys, "fork1", "fork2", "liar", "--robust", "--out", "two")
    (left_out,) = [each["reason"] for each in found["inputs"] if each["left_out"]]
    assert left_out == "points away from the sum of the others"


def test_eval_compares_on_the_same_windows(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    Path("test.txt").write_text(TEXT, encoding="utf-8")
    figures = said(capsys, "fork1", "fork2", "--eval", "test.txt", "--out", "both")["eval"]
    expected = []
    for which in ("base", *(each.id.hex() for each in sorted(family.forks[:2], key=lambda each: each.id)), "both"):
        assert run(["eval", which, "--file", "test.txt", "--json"]) == 0
        expected.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
    assert [figures["base"], *figures["inputs"], figures["merged"]] == expected


def test_merge_that_helps_says_by_how_much(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TEXT[:200]
    Path("test.txt").write_text(text, encoding="utf-8")
    write_tiny(at_home / "base.bin")
    info = inspect_checkpoint(Path("base.bin"))
    base = replace(read_checkpoint(info.path, info.config), weights=weights(1))
    write_checkpoint(info.path, base)
    for name, half in (("left", slice(None, None, 2)), ("right", slice(1, None, 2))):
        flat = base.weights.copy()
        flat[half] *= 0.5  # towards a uniform distribution, which is better than wrong certainty
        write_checkpoint(Path(f"{name}.bin"), replace(base, weights=flat))
        Path(f"{name}.json").write_bytes(Path("base.json").read_bytes())
    words = ("left", "right", "--base", "base.bin", "--scale", "2", "--eval", "test.txt", "--out", "both")
    figures = said(capsys, *words)["eval"]
    assert figures["merged"] < min(figures["base"], *figures["inputs"])
    Path("both.bin").unlink()
    Path("both.json").unlink()
    assert run(["merge", *words]) == 0
    out = capsys.readouterr().out
    assert "merging helped: " in out
    assert "bits per byte below the best of the others\nnext      randygpt publish both.bin\n" in out


def test_input_that_left_the_store_meanwhile_is_named(family: Family) -> None:
    sources = [MergeSource.read(each.file("checkpoint").local_path, each) for each in (family.base, *family.forks)]
    shutil.rmtree(family.forks[1].folder)
    merge = ModelMerge(base=sources[0], inputs=tuple(sources[1:]), rule=MergeRule(weights=(1, 1, 1)))
    with pytest.raises(StoreError, match=f"fork2 version 2 .{family.forks[1].short_id}. was removed from the store"):
        merge.run()


@pytest.mark.usefixtures("family")
def test_merge_that_does_not_help_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("test.txt").write_text(TEXT[:200], encoding="utf-8")
    assert run(["merge", "fork1", "liar", "--scale", "4", "--eval", "test.txt", "--out", "both"]) == 0
    assert "merging did NOT help: base version 1 by npub1" in capsys.readouterr().out


def test_huge_figures_keep_the_columns() -> None:
    assert [bits_cell(value) for value in (2.25, 999.5, 559_700.0, 3e15)] == [
        "  2.2500",
        "999.5000",
        "   6e+05",
        "   3e+15",
    ]


def test_fork_of_a_fork_has_the_base_in_common(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    family.fork("grandchild", 2 * change(1), (b_tag(family.forks[0]),))
    assert said(capsys, "grandchild", "fork2", "--out", "both")["base"] == family.base.id.hex()


def test_merge_of_a_merge_has_the_nearer_base(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    tags = (b_tag(family.base), *(b_tag(each, "merged") for each in family.forks))
    again = family.fork("again", change(5), tags)
    for name in ("left", "right"):
        family.fork(name, change(6 + len(name)), (b_tag(again),))
    assert said(capsys, "left", "right", "--out", "both")["base"] == again.id.hex()


def test_other_base_is_refused(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    other = family.author.install(name="other")
    family.fork("false", change(1), (b_tag(other),))
    assert "have no common base" in refused(capsys, "fork1", "false", "--out", "both")
    said_ = refused(capsys, "fork1", "false", "--base", "base", "--out", "both")
    assert f"has another base than base version 1 ({family.base.short_id}): it was made from the release" in said_
    said_ = refused(capsys, "fork1", "fork2", "--base", "fork1", "--out", "both")
    assert "fork2 version 2" in said_
    assert "has another base than fork1 version 1" in said_
    family.fork("silent", change(1), ())
    assert "names no release that it was made from: name the common one with --base" in refused(
        capsys, "fork1", "silent", "--out", "both"
    )
    assert said(capsys, "fork1", "silent", "--base", "base", "--out", "both")


def test_lying_base_does_no_harm_when_robust(family: Family) -> None:
    family.friend.install(name="unrelated", tags=(b_tag(family.base),), checkpoint=checkpoint(weights(9)))
    assert run(["merge", "fork1", "fork2", "fork3", "unrelated", "--robust", "--out", "safe"]) == 0
    merged = np.frombuffer(Path("safe.bin").read_bytes()[24:], "<f4")
    assert np.linalg.norm(merged - weights(1)) < 1.1 * np.linalg.norm(change(1))


def test_files_can_be_merged_with_a_named_base(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write_tiny(at_home / f"run{seed}.bin", seed=seed, name="demo")
    assert "names no release" in refused(capsys, "run1.bin", "run2.bin", "--out", "both")
    found = said(capsys, "run1", "run2.bin", "--base", "run0.bin", "--out", "both")
    digests = {hashlib.sha256((at_home / f"run{seed}.bin").read_bytes()).hexdigest() for seed in (1, 2)}
    assert {each["release"] for each in found["inputs"]} == {f"sha256:{digest}" for digest in digests}
    assert [each["author"] for each in found["inputs"]] == [None, None]
    sidecar = read_sidecar(Path("both.bin"))
    assert sidecar is not None
    assert (sidecar.name, sidecar.base, sidecar.merged, sidecar.merge) == ("demo", None, (), None)


def test_revoked_input_is_named(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    seen = SeenVersions(family.author.home)
    asyncio.run(seen.revoke(family.forks[0].author, "fork1", [family.forks[0].id]))
    assert run(["merge", "fork1", "fork2", "--out", "both"]) == 0
    assert f"its author revoked fork1 version 1 ({family.forks[0].short_id})" in capsys.readouterr().err


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fork1", "--out", "x"), "a merge has 2 to 16 inputs, not 1"),
        (("fork1", "fork1", "--out", "x"), "is named twice; to count it more, use --weights"),
        (("fork1", "base", "--base", "base", "--out", "x"), "is the base itself"),
        (("fork1", "fork2", "--weights", "1", "--out", "x"), "--weights has 1 numbers for 2 inputs"),
        (("fork1", "fork2", "--robust", "--out", "x"), "--robust needs at least 3"),
        (("fork1", "fork2", "--out", "there"), "there.json exists already: choose another --out"),
        (("fork1", "fork2", "--out", "no/x"), "the folder no does not exist"),
        (("fork1", "fork2", "--eval", "no.txt", "--out", "x"), "no.txt"),
        (("fork1", "fork2", "--eval", "empty.txt", "--out", "x"), "is empty"),
        (("fork1", "nan", "--out", "x"), "NaN or infinity in wte"),
        (("fork1", "wide.bin", "--base", "base", "--out", "x"), "has another vocabulary than the base"),
    ],
)
def test_mistake_is_one_line_and_writes_nothing(
    family: Family, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    family.fork("nan", np.full(CONFIG.parameter_count, np.nan, "<f4"))
    Path("there.json").touch()
    Path("empty.txt").touch()
    write_tiny(Path("wide.bin"))
    sidecar = json.loads(Path("wide.json").read_text(encoding="utf-8"))
    sidecar["tokenizer"]["chars"][2:4] = reversed(sidecar["tokenizer"]["chars"][2:4])
    Path("wide.json").write_text(json.dumps(sidecar), encoding="utf-8")
    before = sorted(Path().iterdir())
    assert says in refused(capsys, *words)
    assert sorted(Path().iterdir()) == before

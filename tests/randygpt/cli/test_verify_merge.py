"""`publish` of a merge, and `verify --merge`: the claim that others can check, and claims that are false."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.command import invoke, only_line
from support.models import CONFIG, TOKENIZER
from support.release_store import ReleaseStore, checkpoint, weights
from support.scripted_relay import ScriptedRelay

from distribution.installed import InstalledRelease
from distribution.store import Store
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.merge import MergeFile, merge_files
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import Checkpoint
from randygpt.checkpoint.save import save_checkpoint
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.cli.main import run
from randygpt.model.merge import MergeRule
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.keys import SecretKey

AUTHOR, FRIEND = (SecretKey(bytes([byte]) * 32) for byte in (0x11, 0x22))


def fork(seed: int) -> np.ndarray:
    both = (np.random.default_rng(each).normal(scale=0.02, size=CONFIG.parameter_count) for each in (0, seed))
    return (weights(1) + sum(both)).astype("<f4")


def publish(home: Path, relay: str, name: str, flat: np.ndarray, base: Origin | None = None) -> Origin:
    header = CheckpointHeader(magic="RGPT0002", vocab_size=CONFIG.vocab_size, iteration=1, step=2, best_loss=1.0)
    saved = Checkpoint(header=header, config=CONFIG, weights=flat.astype(np.float32), optimizer_state=None)
    sidecar = Sidecar(config=CONFIG, tokenizer=TOKENIZER, name=name, iteration=1, base=base)
    save_checkpoint(home / f"{name}.bin", saved, sidecar)
    done = invoke(home, "publish", f"{name}.bin", "--relay", relay, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    return Origin(release=bytes.fromhex(json.loads(done.stdout)["release"]), author=AUTHOR.pubkey)


def test_published_merge_is_verified_by_a_friend(tmp_path: Path, threaded_relay: ScriptedRelay) -> None:
    home, friend, relay = tmp_path / "author", tmp_path / "friend", threaded_relay.url
    for folder in (home, friend):
        folder.mkdir()
    signing_key.store(Home(home), AUTHOR.reveal_nsec())
    base = publish(home, relay, "base", weights(1))
    forks = [publish(home, relay, f"fork{seed}", fork(seed), base) for seed in (1, 2, 3)]
    liar = publish(home, relay, "liar", weights(1) - 10 * (fork(4) - weights(1)), base)
    ids = [each.release.hex() for each in (*forks, liar)]
    done = invoke(home, "merge", *ids, "--robust", "--weights", "2,1,1,1", "--out", "next", "--relay", relay)
    assert done.returncode == 0, done.stderr
    done = invoke(home, "publish", "next.bin", "--relay", relay)
    assert done.returncode == 0, done.stderr
    assert "model    base: randygpt-2L-2H-16D, iteration 2\n" in done.stderr
    assert "loss     no validation loss\n" in done.stderr
    published = done.stdout.split("release  ")[1][:64]
    event = threaded_relay.events[published]
    assert [tag[1:] for tag in event["tags"] if tag[0] == "b"] == [
        [base.release.hex(), "", AUTHOR.pubkey.hex(), "base"],
        *([each.hex(), "", AUTHOR.pubkey.hex(), "merged"] for each in sorted(one.release for one in forks)),
    ]
    card = json.loads(event["content"])
    assert card["merge"]["left_out"][0]["release"] == liar.release.hex()

    assert invoke(friend, "fetch", published, "--relay", relay).returncode == 0
    refused = invoke(friend, "verify", "current", "--merge", "--relay", relay)
    assert refused.returncode == 2
    assert only_line(refused.stderr).endswith("who are not on your trust list; pass --yes to confirm")
    assert [each.name for each in Store(friend).releases()] == ["base"]
    done = invoke(friend, "verify", "current", "--merge", "--relay", relay, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["same"], found["base"]) == (True, base.release.hex())
    assert {each["release"]: each["left_out"] for each in found["inputs"]} == {
        **{each.release.hex(): False for each in forks},
        liar.release.hex(): True,
    }
    assert Store(friend).current() == bytes.fromhex(published)


class Claim:
    """A store with a base, two forks, and what is needed to install merges of them, true or false."""

    def __init__(self, home: Path) -> None:
        self.releases = ReleaseStore(home=home, key=AUTHOR)
        self.base = self.releases.install(name="base", checkpoint=checkpoint(weights(1)))
        forks = [
            self.releases.install(name=f"fork{seed}", tags=(self.tag(self.base),), checkpoint=checkpoint(fork(seed)))
            for seed in (1, 2)
        ]
        self.inputs = sorted(forks, key=lambda each: each.id)

    @staticmethod
    def tag(release: InstalledRelease, role: str = "base", author: bytes = AUTHOR.pubkey) -> tuple[str, ...]:
        return ("b", release.id.hex(), "", author.hex(), role)

    def merged(self, base: InstalledRelease | None = None) -> Checkpoint:
        def file(release: InstalledRelease) -> MergeFile:
            path = release.file("checkpoint").local_path
            return MergeFile(title=release.title, path=path, config=CONFIG, tokenizer=TOKENIZER)

        return merge_files(file(base or self.base), list(map(file, self.inputs)), MergeRule(weights=(1, 1))).checkpoint

    def install(
        self, made: Checkpoint, *, record: object = None, inputs: list[tuple[str, ...]] | None = None
    ) -> InstalledRelease:
        tags = (self.tag(self.base), *(inputs or [self.tag(each, "merged") for each in self.inputs]))
        card = {"merge": record or {"weights": [1, 1], "scale": "1", "robust": False, "left_out": []}}
        data = made.header.encode() + made.weights.tobytes()
        return self.releases.install(name="merge", tags=tags, card=card, checkpoint=data)


@pytest.fixture
def claim(at_home: Path) -> Claim:
    return Claim(at_home)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert run(["verify", "merge", "--merge", *words]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else only_line(err)


def test_true_claim(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    claim.install(claim.merged())
    assert said(capsys).startswith("same     merge version 4 by npub1")


def test_changed_weight_is_no_merge(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    made = claim.merged()
    made.weights[7] = np.nextafter(made.weights[7], np.float32(1))
    claim.install(made)
    count = CONFIG.parameter_count
    assert f"is NOT the merge that its author claims: 1 of {count:,} weights differ" in said(capsys, code=3)
    assert run(["verify", "merge", "--merge", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["same"] is False


def test_changed_header_is_no_merge(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    made = claim.merged()
    claim.install(replace(made, header=replace(made.header, best_loss=0.5)))
    assert "the headers differ" in said(capsys, code=3)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"weights": [2, 1], "scale": "1"}, "weights differ"),
        ({"weights": [1, 1], "scale": "0.9"}, "weights differ"),
        ({"weights": [1], "scale": "1"}, "does not say how it was merged"),
        ({"weights": [1, 1, 1], "scale": "1"}, "does not say how it was merged: 3 weights for 2 inputs"),
        ({"weights": [1, 2**40], "scale": "1"}, "does not say how it was merged"),
        ({"weights": [1, True], "scale": "1"}, "does not say how it was merged"),
        ({"weights": [1, 1], "scale": 1}, "does not say how it was merged"),
        ({"weights": "11", "scale": "1"}, "does not say how it was merged"),
        ({"weights": [1, 1], "scale": "1", "left_out": [3]}, "does not say how it was merged"),
        ([], "does not say how it was merged"),
    ],
)
def test_false_or_malformed_record(claim: Claim, capsys: pytest.CaptureFixture[str], record: object, says: str) -> None:
    claim.install(claim.merged(), record=record or [0])
    assert says in said(capsys, code=3)


def test_input_of_another_author_is_a_false_claim(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [claim.tag(each, "merged", FRIEND.pubkey) for each in claim.inputs]
    claim.install(claim.merged(), inputs=inputs)
    assert "names a wrong author of fork" in said(capsys, code=3)


def test_base_as_input_is_a_false_claim(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [claim.tag(claim.base, "merged"), claim.tag(claim.inputs[0], "merged")]
    claim.install(claim.merged(), inputs=inputs)
    assert "cannot be the merge that it claims to be" in said(capsys, code=3)


def test_left_out_input_that_the_rule_keeps_is_a_false_claim(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    third = claim.releases.install(name="fork3", tags=(claim.tag(claim.base),), checkpoint=checkpoint(fork(3)))
    row = {"release": third.id.hex(), "author": AUTHOR.pubkey.hex(), "relay": "", "weight": 1, "reason": "no reason"}
    claim.install(claim.merged(), record={"weights": [1, 1], "scale": "1", "robust": True, "left_out": [row]})
    assert "the rule leaves out other inputs than it says" in said(capsys, code=3)


def test_release_that_is_no_merge(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", claim.base.id.hex(), "--merge"]) == 2
    assert "base version 1 is no merge: its author names no merged inputs" in only_line(capsys.readouterr().err)

"""`randygpt train --from`: forks of releases and files, and the origin that they keep until they are published."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.command import invoke, only_line
from support.models import CONFIG, TEXT, TOKENIZER
from support.release_store import ReleaseStore, weights
from support.scripted_relay import ScriptedRelay

from distribution.events import RELEASE_KIND
from distribution.installed import InstalledRelease
from randygpt.checkpoint.origin import Origin
from randygpt.checkpoint.rgpt import read_checkpoint
from randygpt.checkpoint.sidecar import Sidecar, inspect_checkpoint, read_sidecar
from randygpt.cli.main import run
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

FRIEND = SecretKey(bytes.fromhex("22" * 32))
RELAY = "wss://relay.example"


@pytest.fixture
def base(at_home: Path) -> InstalledRelease:
    (at_home / "mine.txt").write_text(TEXT, encoding="utf-8")
    return ReleaseStore(home=at_home, key=FRIEND).install(hint=RELAY)


def train(*words: str) -> int:
    return run(["train", "mine.txt", "--quiet", "--batch", "2", *words])


def sidecar_of(path: str) -> Sidecar:
    sidecar = read_sidecar(Path(path))
    assert sidecar is not None
    return sidecar


def origin_of(release: InstalledRelease) -> Origin:
    return Origin(release=release.id, author=release.author, relay=RELAY)


def test_fork_starts_a_new_run_from_the_weights(base: InstalledRelease, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "mine.txt", "--batch", "2", "--from", "tiny", "--iters", "1", "--lr", "1e-9"]) == 0
    assert f"from    {base.title}\n" in capsys.readouterr().err
    found = inspect_checkpoint(Path("checkpoint.bin"))
    trained = read_checkpoint(found.path, found.config)
    assert (found.config, found.header.iteration, found.header.step) == (CONFIG, 0, 1)
    assert np.allclose(trained.weights, weights(1), atol=1e-6)
    assert found.tokenizer is not None
    assert found.tokenizer.to_json() == TOKENIZER.to_json()


def test_fork_has_its_own_learning_rate(base: InstalledRelease) -> None:
    assert train("--from", base.id.hex(), "--iters", "1") == 0
    forked = sidecar_of("checkpoint.bin").training["max_lr"]
    assert train("--resume", "checkpoint.bin", "--fine-tune", "--iters", "1") == 0
    assert forked < sidecar_of("checkpoint.bin").training["max_lr"]


def test_resume_and_unpublished_forks_keep_the_base(base: InstalledRelease) -> None:
    assert train("--from", "tiny", "--iters", "1") == 0
    assert sidecar_of("checkpoint.bin").base == origin_of(base)
    assert train("--resume", "--iters", "2") == 0
    assert sidecar_of("checkpoint.bin").base == origin_of(base)
    assert train("--from", "checkpoint.bin", "--iters", "1", "--checkpoint", "second") == 0
    assert sidecar_of("second_best.bin").base == origin_of(base)


def test_model_without_base_has_none(base: InstalledRelease) -> None:
    assert train("--iters", "1", "--dim", "16", "--heads", "2", "--layers", "1", "--checkpoint", "own") == 0
    assert train("--from", "own", "--iters", "1") == 0
    assert sidecar_of("checkpoint.bin").base is None
    assert "base" not in json.loads(Path("checkpoint.json").read_text(encoding="utf-8"))
    assert base.lineage.base is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--preset", "s"), "--from keeps the shape of tiny: leave out --preset"),
        (("--dim", "16"), "--from keeps the shape of tiny: leave out --dim"),
        (("--bpe", "300"), "--from keeps the vocabulary of tiny: leave out --bpe"),
        (("--vocab", "vocab.json"), "--from keeps the vocabulary of tiny: leave out --vocab"),
        (("--resume",), "--from and --resume exclude each other"),
        (("--fine-tune",), "--from and --fine-tune exclude each other"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
@pytest.mark.usefixtures("base")
def test_contradicting_flag_is_refused(words: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--from", "tiny", *words) == 2
    assert reason in only_line(capsys.readouterr().err)
    assert not Path("checkpoint.bin").exists()


@pytest.mark.usefixtures("base")
def test_preset_in_a_settings_file_does_not_contradict() -> None:
    Path("config.toml").write_text('[train]\npreset = "s"\n', encoding="utf-8")
    assert train("--from", "tiny", "--iters", "1") == 0


def test_release_that_is_not_installed_is_fetched(author: Path, threaded_relay: ScriptedRelay, key: SecretKey) -> None:
    (author / "mine.txt").write_text(TEXT, encoding="utf-8")
    published = invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url, "--json")
    assert invoke(author, "relays", "add", threaded_relay.url).returncode == 0
    words = ("train", "mine.txt", "--iters", "1", "--batch", "2", "--checkpoint", "fork", "--quiet")
    done = invoke(author, *words, "--from", f"{encode_npub(key.pubkey)}/demo")
    assert (done.returncode, done.stderr) == (0, "")
    base = json.loads((author / "fork.json").read_text(encoding="utf-8"))["base"]
    assert base["release"] == json.loads(published.stdout)["release"]
    assert "current" not in invoke(author, "list").stdout


@pytest.mark.usefixtures("base")
def test_text_that_the_vocabulary_lacks_needs_consent(capsys: pytest.CaptureFixture[str]) -> None:
    Path("greek.txt").write_text("the λόγος " * 800, encoding="utf-8")
    assert run(["train", "greek.txt", "--from", "tiny"]) == 2
    assert "4,000 of 8,000 characters (50.0%) are not in the vocabulary" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["safetensors", "hf"])
def test_export_and_import_keep_the_base(base: InstalledRelease, kind: str) -> None:
    assert train("--from", "tiny", "--iters", "1") == 0
    for number, model in enumerate(("checkpoint.bin", "tiny")):
        assert run(["export", model, f"folder{number}", "--format", kind, "--quiet"]) == 0
        assert run(["import", f"folder{number}", f"imported{number}", "--quiet"]) == 0
        assert sidecar_of(f"imported{number}.bin").base == origin_of(base)


def test_publish_names_the_base(author: Path, threaded_relay: ScriptedRelay) -> None:
    (author / "mine.txt").write_text(TEXT, encoding="utf-8")
    base = ReleaseStore(home=author, key=FRIEND).install(hint=RELAY)
    words = ("train", "mine.txt", "--from", "tiny", "--iters", "1", "--batch", "2", "--checkpoint", "fork", "--quiet")
    assert invoke(author, *words).returncode == 0
    done = invoke(author, "publish", "fork", "--relay", threaded_relay.url)
    release = next(event for event in threaded_relay.events.values() if event["kind"] == RELEASE_KIND)
    assert [tag for tag in release["tags"] if tag[0] == "b"] == [
        ["b", base.id.hex(), RELAY, FRIEND.pubkey.hex(), "base"]
    ]
    assert f"base     {base.id.hex()[:12]} by npub1" in done.stderr
    planned = invoke(author, "fetch", release["id"], "--relay", threaded_relay.url, "--dry-run").stdout
    assert f"made from base {base.id.hex()} by {encode_npub(FRIEND.pubkey)}\n" in planned


def test_release_of_another_author_is_the_base_when_published(author: Path, threaded_relay: ScriptedRelay) -> None:
    base = ReleaseStore(home=author, key=FRIEND).install(hint=RELAY)
    done = invoke(author, "publish", "tiny", "--name", "copy", "--relay", threaded_relay.url, "--json")
    release = threaded_relay.events[json.loads(done.stdout)["release"]]
    assert [tag[1] for tag in release["tags"] if tag[0] == "b"] == [base.id.hex()]


@pytest.mark.parametrize("flags", [(), ("--weights-only",)], ids=["whole", "weights only"])
def test_published_file_is_the_base_itself(author: Path, threaded_relay: ScriptedRelay, flags: tuple[str, ...]) -> None:
    (author / "mine.txt").write_text(TEXT, encoding="utf-8")
    done = invoke(author, "publish", "checkpoint_best.bin", "--relay", threaded_relay.url, "--json", *flags)
    words = ("train", "mine.txt", "--from", "checkpoint_best.bin", "--iters", "1", "--batch", "2", "--quiet")
    assert invoke(author, *words, "--checkpoint", "fork").returncode == 0
    base = json.loads((author / "fork.json").read_text(encoding="utf-8"))["base"]
    assert base == {"release": json.loads(done.stdout)["release"], "author": base["author"], "relay": ""}

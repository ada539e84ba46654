"""The one way to name a model: files, prefixes and every spelling of an installed release."""

import asyncio
import json
from pathlib import Path

import nostr_sdk
import pytest
from support.command import invoke, only_line
from support.models import write_tiny
from support.release_store import ReleaseStore

from distribution.installed import InstalledRelease
from distribution.resolve import VersionReference, resolve_name, resolve_reference
from distribution.trust_list import TrustStore
from randygpt.cli.serve import first_model_hint
from randygpt.errors import CallerError
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, EventReference, encode_bech32, encode_nevent, encode_npub

KEY = SecretKey(bytes.fromhex("11" * 32))
NPUB = encode_npub(KEY.pubkey)
SAMPLE = ("--max-tokens", "3", "--seed", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions of one model, the first of which is current, and an author called alice."""
    home = tmp_path_factory.mktemp("home")
    releases = ReleaseStore(home=home, key=KEY)
    first, second = releases.install(), releases.install()
    releases.store.activate(second.id)
    releases.store.activate(first.id)
    asyncio.run(TrustStore(home).add(KEY.pubkey, "alice"))
    return home


def naddr(author: bytes, name: str) -> str:
    coordinate = nostr_sdk.Coordinate(nostr_sdk.Kind(34181), nostr_sdk.PublicKey.from_bytes(author), name)
    return str(nostr_sdk.Nip19Coordinate(coordinate, []).to_bech32())


def installed(home: Path) -> list[InstalledRelease]:
    """Return the releases, by version."""
    return sorted(ReleaseStore(home=home, key=KEY).store.releases(), key=lambda release: release.version)


def spellings(release: InstalledRelease) -> dict[str, str]:
    nevent = encode_nevent(release.id, author=KEY.pubkey, kind=4181, relays=("wss://relay.example",))
    exact = {
        "hex": release.id.hex(),
        "prefix": release.id.hex()[:8],
        "note": encode_bech32("note", release.id),
        "nevent": nevent,
        "uppercase nevent": nevent.upper(),
        "nostr URI": f"nostr:{nevent}",
        "uppercase nostr URI": f"NOSTR:{nevent.upper()}",
        "link": f"https://njump.me/{nevent}",
        "prefix in a URI": f"NOSTR:{release.id.hex()[:8]}",
        "link with a path": f"https://nostr.example/e/{nevent}/?theme=dark",
        "name and version": f"tiny@{release.version}",
        "petname and version": f"alice/tiny@{release.version}",
        "npub and version": f"{NPUB}/tiny@{release.version}",
    }
    newest = {
        "name": "tiny",
        "petname": "alice/tiny",
        "petname in a URI": "nostr:alice/tiny",
        "uppercase naddr": naddr(KEY.pubkey, "tiny").upper(),
        "npub and name": f"{NPUB}/tiny",
        "uppercase npub": f"{NPUB.upper()}/tiny",
        "hex key and name": f"{KEY.pubkey.hex()}/tiny",
        "naddr": naddr(KEY.pubkey, "tiny"),
        "nostr naddr": f"nostr:{naddr(KEY.pubkey, 'tiny')}",
        "link with npub": f"https://njump.me/{NPUB}/tiny",
    }
    return exact | (newest if release.version == 2 else {"current": "current"})


def test_every_spelling_names_the_release(home: Path) -> None:
    for release in installed(home):
        for kind, text in spellings(release).items():
            shown = invoke(home, "show", text, "--json")
            assert (kind, shown.returncode, shown.stderr) == (kind, 0, "")
            assert (kind, json.loads(shown.stdout)["release"]) == (kind, release.id.hex())


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "the", *SAMPLE, "--model"),
        ("verify",),
        ("use",),
        ("pin",),
        ("export", "--format", "safetensors"),
        ("publish", "--dry-run", "--name", "other", "--relay", "ws://127.0.0.1:1"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_takes_the_same_names(home: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    target = (tmp_path / "out",) if words[0] == "export" else ()
    (home / "keys").mkdir(exist_ok=True)
    (home / "keys" / "nsec").write_text(KEY.reveal_nsec(), encoding="utf-8")
    (home / "keys" / "nsec").chmod(0o600)
    done = invoke(home, *words, "alice/tiny@1", *target)
    assert (done.returncode, done.stderr) == (0, "")


def test_reference_of_an_installed_name_is_for_the_network(home: Path) -> None:
    store, trusted = ReleaseStore(home=home, key=KEY).store, TrustStore(home).read()
    first, second = installed(home)
    by_name = AddressReference(author=KEY.pubkey, name="tiny")
    expected = {
        "tiny": by_name,
        "alice/tiny": by_name,
        "current": EventReference(id=first.id),
        "previous": EventReference(id=second.id),
        "tiny@1": VersionReference(author=KEY.pubkey, name="tiny", version=1),
        "alice/tiny@9": VersionReference(author=KEY.pubkey, name="tiny", version=9),
        first.id.hex()[:8].upper(): EventReference(id=first.id),
        "ab" * 32: EventReference(id=bytes.fromhex("ab" * 32)),
    }
    assert {text: resolve_reference(store, trusted, text) for text in expected} == expected
    assert resolve_reference(store, trusted, "new", author=KEY.pubkey) == AddressReference(
        author=KEY.pubkey, name="new"
    )
    assert resolve_name(store, trusted, "current") == resolve_name(store, trusted, first.id.hex()) == by_name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ab" * 32, "never changes"),
        ("tiny@1", "without a version"),
        ("nothing", "no installed model is called 'nothing'"),
        ("bob/tiny", "no author 'bob' on your trust list"),
        ("nothing@9", "without a version"),
        (NPUB, "expected npub…/name"),
    ],
)
def test_unusable_name_is_refused(home: Path, text: str, says: str) -> None:
    store, trusted = ReleaseStore(home=home, key=KEY).store, TrustStore(home).read()
    with pytest.raises(CallerError) as caught:
        resolve_name(store, trusted, text)
    assert says in str(caught.value)


# --- files


def test_file_and_prefix_come_before_releases(tmp_path: Path) -> None:
    ReleaseStore(home=tmp_path, key=KEY).install()
    (tmp_path / "tiny").mkdir()  # a folder without a checkpoint hides no release
    assert json.loads(invoke(tmp_path, "show", "tiny", "--json").stdout)["version"] == 1
    for name in ("tiny.bin", "tiny_best.bin"):
        write_tiny(tmp_path / name)
        assert json.loads(invoke(tmp_path, "show", "tiny", "--json").stdout)["file"] == name
    assert json.loads(invoke(tmp_path, "show", "tiny.bin", "--json").stdout)["file"] == "tiny.bin"


def test_generate_uses_the_current_release(tmp_path: Path) -> None:
    write_tiny(tmp_path / "checkpoint.bin")
    from_file = invoke(tmp_path, "generate", "the", *SAMPLE)
    assert from_file.returncode == 0
    releases = ReleaseStore(home=tmp_path, key=KEY)
    releases.store.activate(releases.install().id)
    done = {words: invoke(tmp_path, "generate", "the", *SAMPLE, *words) for words in ((), ("--model", "current"))}
    assert done[()].stdout == done["--model", "current"].stdout != from_file.stdout
    note = "using the current release tiny version 1; for checkpoint.bin, add --model checkpoint.bin"
    assert only_line(done[()].stderr) == note
    assert invoke(tmp_path, "generate", "the", *SAMPLE, "--checkpoint", "checkpoint").stdout == from_file.stdout
    assert invoke(tmp_path, "--generate", "the", "--seed", "1", "--max-tokens", "3").stdout == from_file.stdout


def test_generate_without_any_model_says_what_to_do(tmp_path: Path) -> None:
    done = invoke(tmp_path, "generate")
    assert done.returncode == 2
    assert only_line(done.stderr).endswith(
        "no release is installed and neither checkpoint_best.bin nor checkpoint.bin exists; name a model with --model, "
        "or run randygpt fetch or randygpt train"
    )


def test_serve_names_the_checkpoint_in_the_folder(at_home: Path) -> None:
    assert first_model_hint() == "`randygpt fetch`; to serve a file, use --model"
    write_tiny(at_home / "mine.bin")
    assert first_model_hint().endswith("use --model mine.bin")
    write_tiny(at_home / "checkpoint_best.bin")
    assert first_model_hint().endswith("use --model checkpoint_best.bin")


def test_plot_of_a_release_asks_for_the_run(home: Path) -> None:
    done = invoke(home, "plot", "alice/tiny")
    assert done.returncode == 2
    assert "name the run's PREFIX" in only_line(done.stderr)

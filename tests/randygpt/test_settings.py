"""The user's own files: where they are, who may read the key, and what damage is called."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from support.command import TIMEOUT_S

from randygpt.errors import CallerError
from randygpt.settings import Home
from relay_client.errors import InvalidKey
from relay_client.keys import SecretKey, encode_npub


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put_key(path: Path, key: SecretKey, *, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(key.reveal_nsec(), encoding="ascii")
    path.chmod(mode)
    return path


def test_the_folder_is_the_one_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANDYGPT_HOME", str(tmp_path / "mine"))
    home = Home.from_environment()
    assert home.folder == tmp_path / "mine"
    assert home.key_path == tmp_path / "mine" / "keys" / "nsec"
    assert home.relays_path == tmp_path / "mine" / "relays.json"
    assert home.journal_path == tmp_path / "mine" / "state" / "journal.sqlite"


def test_a_relative_folder_stays_where_it_was_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANDYGPT_HOME", "mine")
    assert Home.from_environment().folder == tmp_path / "mine"


def test_a_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RANDYGPT_HOME", "~/mine")
    assert Home.from_environment().folder == tmp_path / "mine"


@pytest.mark.parametrize("value", [None, ""])
def test_without_one_it_is_the_platforms(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("RANDYGPT_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("RANDYGPT_HOME", value)
    assert Home.from_environment().folder == platformdirs.user_data_path("randygpt")


def test_a_new_key_is_for_its_owner_alone(home: Home) -> None:
    key = home.new_key()
    assert permissions(home.key_path) == 0o600
    assert permissions(home.key_path.parent) == 0o700
    assert [entry.name for entry in home.key_path.parent.iterdir()] == ["nsec"]
    assert home.read_key().pubkey == key.pubkey


def test_a_generous_umask_opens_nothing(home: Home) -> None:
    before = os.umask(0)
    try:
        home.new_key()
    finally:
        os.umask(before)
    assert permissions(home.key_path) == 0o600
    assert permissions(home.key_path.parent) == 0o700


def test_two_keys_differ(tmp_path: Path) -> None:
    assert Home(tmp_path / "a").new_key().pubkey != Home(tmp_path / "b").new_key().pubkey


def test_a_key_is_never_overwritten(home: Home) -> None:
    home.new_key()
    before = home.key_path.read_bytes()
    with pytest.raises(CallerError, match=f"there is a key already: {home.key_path}"):
        home.new_key()
    assert home.key_path.read_bytes() == before
    assert [entry.name for entry in home.key_path.parent.iterdir()] == ["nsec"]


def test_a_damaged_key_is_not_overwritten_either(home: Home) -> None:
    home.key_path.parent.mkdir(parents=True)
    home.key_path.write_bytes(b"")
    with pytest.raises(CallerError, match="there is a key already"):
        home.new_key()
    assert home.key_path.read_bytes() == b""


def test_a_key_in_another_file(home: Home, tmp_path: Path, key: SecretKey) -> None:
    home.new_key()
    other = put_key(tmp_path / "other", key)
    assert home.read_key(other).pubkey == key.pubkey


def test_a_file_with_white_space_around_the_key(home: Home, key: SecretKey) -> None:
    put_key(home.key_path, key).write_text(f"\n {key.reveal_nsec()}\r\n", encoding="ascii")
    assert home.read_key().pubkey == key.pubkey


def test_without_a_key_one_is_told_how_to_make_it(home: Home) -> None:
    with pytest.raises(CallerError, match=f"no key at {home.key_path}; make one: randygpt keys new"):
        home.read_key()
    assert not home.folder.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610, 0o601, 0o660])
def test_a_key_others_may_read(home: Home, key: SecretKey, mode: int) -> None:
    put_key(home.key_path, key, mode=mode)
    with pytest.raises(CallerError, match=f"run: chmod 600 {home.key_path}"):
        home.read_key()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_only_its_owner_may_read(home: Home, key: SecretKey, mode: int) -> None:
    put_key(home.key_path, key, mode=mode)
    assert home.read_key().pubkey == key.pubkey


def test_a_link_to_a_key(home: Home, tmp_path: Path, key: SecretKey) -> None:
    target = put_key(tmp_path / "target", key)
    home.key_path.parent.mkdir(parents=True)
    home.key_path.symlink_to(target)
    with pytest.raises(CallerError, match="symbolic link"):
        home.read_key()


def test_a_folder_is_no_key(home: Home) -> None:
    home.key_path.mkdir(parents=True, mode=0o700)
    with pytest.raises(CallerError, match=f"{home.key_path}: a key file must be a plain file"):
        home.read_key()


def test_a_pipe_is_no_key_and_is_not_waited_for(home: Home) -> None:
    home.key_path.parent.mkdir(parents=True, mode=0o700)
    os.mkfifo(home.key_path, 0o600)
    code = f"from pathlib import Path; from randygpt.settings import Home; Home(Path({str(home.folder)!r})).read_key()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert "CallerError" in done.stderr
    assert "a key file must be a plain file" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_key_of_somebody_else(home: Home, key: SecretKey) -> None:
    os.chown(put_key(home.key_path, key), 1, -1)
    with pytest.raises(CallerError, match="a plain file of your own"):
        home.read_key()


@pytest.mark.parametrize("contents", ["", "hunter2", "nsec1hunter2", "hunter2" * 10_000, "hunter2\xff"])
def test_a_file_that_holds_no_key_is_not_repeated(home: Home, key: SecretKey, contents: str) -> None:
    put_key(home.key_path, key).write_bytes(contents.encode("latin-1"))
    with pytest.raises(InvalidKey) as caught:
        home.read_key()
    assert str(caught.value) == f"{home.key_path}: not a valid nsec"


def test_a_public_key_is_no_secret_key(home: Home, key: SecretKey) -> None:
    npub = encode_npub(key.pubkey)
    put_key(home.key_path, key).write_text(npub, encoding="ascii")
    with pytest.raises(InvalidKey) as caught:
        home.read_key()
    assert npub not in str(caught.value)


def test_relays_round_trip(home: Home) -> None:
    relays = ["wss://b.example", "ws://127.0.0.1:7777", "wss://a.example/né"]
    assert home.read_relays() == []
    home.write_relays(relays)
    assert home.read_relays() == relays
    home.write_relays([])
    assert home.read_relays() == []
    assert [entry.name for entry in home.folder.iterdir()] == ["relays.json"]


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"\xff", b"{}", b"null", b'"wss://a"', b"[1]", b'["wss://a", null]', b"[" * 200_000],
    ids=lambda data: repr(data)[:20],
)
def test_a_damaged_list_of_relays_is_named_and_kept(home: Home, data: bytes) -> None:
    home.write_relays([])
    home.relays_path.write_bytes(data)
    with pytest.raises(CallerError, match=str(home.relays_path)):
        home.read_relays()
    assert home.relays_path.read_bytes() == data

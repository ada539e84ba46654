"""Signing key: its sources in order, and the files that are refused."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import TIMEOUT_S

from randygpt.errors import CallerError
from randygpt.user import signing_key
from randygpt.user.home import Home
from relay_client.errors import InvalidKey
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

OPENS = "a password"
OTHER = SecretKey(bytes.fromhex("33" * 32))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("CREDENTIALS_DIRECTORY", "RANDYGPT_NSEC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signing_key, "_taken_from_environment", "")
    return Home(tmp_path / "home")


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put(path: Path, secret: str, *, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(secret, encoding="utf-8")
    path.chmod(mode)
    return path


def put_key(path: Path, key: SecretKey, *, mode: int = 0o600) -> Path:
    return put(path, key.reveal_nsec(), mode=mode)


def no_password(origin: str) -> str:
    raise AssertionError(f"asked for the password of {origin}")


def find(home: Home, file: Path | None = None) -> signing_key.FoundKey:
    return signing_key.find(home, file, no_password)


def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey, *, mode: int = 0o400) -> Path:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    return put_key(tmp_path / "credentials" / "nsec", key, mode=mode)


def test_new_key_is_private(home: Home, key: SecretKey) -> None:
    signing_key.store(home, key.reveal_nsec())
    assert permissions(home.key_path) == 0o600
    assert permissions(home.key_path.parent) == 0o700
    assert [entry.name for entry in home.key_path.parent.iterdir()] == ["nsec"]
    assert find(home).key.pubkey == key.pubkey


def test_umask_does_not_open_the_key(home: Home, key: SecretKey) -> None:
    before = os.umask(0)
    try:
        signing_key.store(home, key.reveal_nsec())
    finally:
        os.umask(before)
    assert permissions(home.key_path) == 0o600
    assert permissions(home.key_path.parent) == 0o700


def test_key_is_never_overwritten(home: Home, key: SecretKey) -> None:
    signing_key.store(home, key.reveal_nsec())
    before = home.key_path.read_bytes()
    with pytest.raises(CallerError, match=f"a key exists already: {home.key_path}"):
        signing_key.store(home, key.reveal_nsec())
    assert home.key_path.read_bytes() == before
    assert [entry.name for entry in home.key_path.parent.iterdir()] == ["nsec"]


def test_damaged_key_is_not_overwritten(home: Home, key: SecretKey) -> None:
    home.key_path.parent.mkdir(parents=True)
    home.key_path.write_bytes(b"")
    with pytest.raises(CallerError, match="a key exists already"):
        signing_key.store(home, key.reveal_nsec())
    assert home.key_path.read_bytes() == b""


def test_key_in_another_file(home: Home, tmp_path: Path, key: SecretKey) -> None:
    signing_key.store(home, OTHER.reveal_nsec())
    other = put_key(tmp_path / "other", key)
    assert find(home, other).key.pubkey == key.pubkey


def test_whitespace_around_the_key_is_ignored(home: Home, key: SecretKey) -> None:
    put_key(home.key_path, key).write_text(f"\n {key.reveal_nsec()}\r\n", encoding="ascii")
    assert find(home).key.pubkey == key.pubkey


@pytest.mark.parametrize("form", ["nsec", "ncryptsec"])
def test_byte_order_mark_before_the_key_is_ignored(home: Home, tmp_path: Path, key: SecretKey, form: str) -> None:
    secret = key.reveal_nsec() if form == "nsec" else key.reveal_ncryptsec("opens")
    file = tmp_path / "key"
    file.write_text(secret, encoding="utf-8-sig")
    file.chmod(0o600)
    assert signing_key.find(home, file, lambda _origin: "opens").key.pubkey == key.pubkey


def test_missing_key_names_the_command(home: Home) -> None:
    with pytest.raises(CallerError, match=f"no key at {home.key_path}: create one with randygpt keys new"):
        find(home)
    assert not home.folder.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610, 0o601, 0o660])
def test_key_readable_by_others_is_refused(home: Home, key: SecretKey, mode: int) -> None:
    put_key(home.key_path, key, mode=mode)
    with pytest.raises(CallerError, match=f"run chmod 600 {home.key_path}"):
        find(home)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_key_readable_by_its_owner_is_accepted(home: Home, key: SecretKey, mode: int) -> None:
    put_key(home.key_path, key, mode=mode)
    assert find(home).key.pubkey == key.pubkey


def test_symbolic_link_is_refused(home: Home, tmp_path: Path, key: SecretKey) -> None:
    target = put_key(tmp_path / "target", key)
    home.key_path.parent.mkdir(parents=True)
    home.key_path.symlink_to(target)
    with pytest.raises(CallerError, match="symbolic link"):
        find(home)


def test_folder_is_refused(home: Home) -> None:
    home.key_path.mkdir(parents=True, mode=0o700)
    with pytest.raises(CallerError, match=f"{home.key_path}: a file with a secret must be a regular file"):
        find(home)


def test_pipe_is_refused_without_waiting(home: Home) -> None:
    home.key_path.parent.mkdir(parents=True, mode=0o700)
    os.mkfifo(home.key_path, 0o600)
    path = str(home.key_path)
    code = f"from pathlib import Path; from randygpt.user import signing_key; signing_key.read_secret(Path({path!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert "CallerError" in done.stderr
    assert "a file with a secret must be a regular file" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_key_of_another_user_is_refused(home: Home, key: SecretKey) -> None:
    os.chown(put_key(home.key_path, key), 1, -1)
    with pytest.raises(CallerError, match="a regular file that you own"):
        find(home)


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ("", "no key in it; expected an nsec or ncryptsec"),
        ("hunter2", "not a secret key; expected an nsec or ncryptsec"),
        ("nsec1hunter2", "not a valid nsec"),
        ("hunter2" * 10_000, "not a secret key; expected an nsec or ncryptsec"),
        ("hunter2\xff", "not a secret key; expected an nsec or ncryptsec"),
    ],
)
def test_invalid_key_is_not_repeated(home: Home, key: SecretKey, contents: str, says: str) -> None:
    put_key(home.key_path, key).write_bytes(contents.encode("latin-1"))
    with pytest.raises(InvalidKey) as caught:
        find(home)
    assert str(caught.value) == f"{home.key_path}: {says}"


def test_public_key_is_refused(home: Home, key: SecretKey) -> None:
    npub = encode_npub(key.pubkey)
    put_key(home.key_path, key).write_text(npub, encoding="ascii")
    with pytest.raises(InvalidKey) as caught:
        find(home)
    assert npub not in str(caught.value)


def test_service_credential_comes_first(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey
) -> None:
    signing_key.store(home, OTHER.reveal_nsec())
    named = put_key(tmp_path / "named", OTHER)
    monkeypatch.setenv("RANDYGPT_NSEC", OTHER.reveal_nsec())
    path = credential(tmp_path, monkeypatch, key)
    found = find(home, named)
    assert (found.key.pubkey, found.origin) == (key.pubkey, str(path))
    assert any(str(named) in words and "not used" in words for words in found.warnings)


def test_named_file_without_a_credential(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey
) -> None:
    credential(tmp_path, monkeypatch, OTHER).rename(tmp_path / "credentials" / "api-keys")
    signing_key.store(home, OTHER.reveal_nsec())
    assert find(home, put_key(tmp_path / "named", key)).key.pubkey == key.pubkey


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_credential_may_have_access_list_bits(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey, mode: int
) -> None:
    """systemd lets the service read a file of root by an access list, whose mask shows in the group bits."""
    credential(tmp_path, monkeypatch, key, mode=mode)
    assert find(home).key.pubkey == key.pubkey


def test_other_credentials_follow_the_same_rules(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey
) -> None:
    password = credential(tmp_path, monkeypatch, key).with_name("password")
    assert signing_key.read_secret(put(password, OPENS, mode=0o440)) == OPENS
    assert find(home, password.with_name("nsec")).warnings == ()


@pytest.mark.parametrize("mode", [0o404, 0o402])
def test_world_readable_credential_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey, mode: int
) -> None:
    credential(tmp_path, monkeypatch, key, mode=mode)
    with pytest.raises(CallerError, match="is accessible to other users"):
        find(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_credential_of_another_user_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey
) -> None:
    os.chown(credential(tmp_path, monkeypatch, key), 1, -1)
    with pytest.raises(CallerError, match="a regular file that you own"):
        find(home)


def test_environment_key_comes_last_with_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch, key: SecretKey) -> None:
    monkeypatch.setenv("RANDYGPT_NSEC", key.reveal_nsec())
    found = find(home)
    assert (found.key.pubkey, found.origin, len(found.warnings)) == (key.pubkey, "RANDYGPT_NSEC", 1)
    assert "RANDYGPT_NSEC" not in os.environ  # commands that are started do not inherit it
    assert find(home).key.pubkey == key.pubkey  # a program may publish twice
    signing_key.store(home, OTHER.reveal_nsec())
    monkeypatch.setenv("RANDYGPT_NSEC", key.reveal_nsec())
    found = find(home)
    assert found.key.pubkey == OTHER.pubkey
    assert found.warnings[-1] == f"RANDYGPT_NSEC is not used: the key is {home.key_path}"


def test_invalid_environment_key_is_not_repeated(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANDYGPT_NSEC", "hunter2")
    with pytest.raises(InvalidKey) as caught:
        find(home)
    assert str(caught.value) == "RANDYGPT_NSEC: not a secret key; expected an nsec or ncryptsec"


def test_only_an_encrypted_key_asks_for_a_password(home: Home, key: SecretKey) -> None:
    signing_key.store(home, key.reveal_ncryptsec(OPENS))
    asked: list[str] = []

    def password(origin: str) -> str:
        asked.append(origin)
        return OPENS if len(asked) == 1 else "wrong"

    assert signing_key.find(home, None, password).key.pubkey == key.pubkey
    with pytest.raises(InvalidKey) as caught:
        signing_key.find(home, None, password)
    assert str(caught.value) == f"{home.key_path}: wrong password for this ncryptsec"
    assert asked == [str(home.key_path)] * 2


def test_core_dumps_are_disabled() -> None:
    code = (
        "import resource as r; from randygpt.user import signing_key; most = r.getrlimit(r.RLIMIT_CORE)[1]\n"
        "r.setrlimit(r.RLIMIT_CORE, (most, most)); signing_key.disable_core_dumps(); print(r.getrlimit(r.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    assert done.stdout.strip() == "(0, 0)"

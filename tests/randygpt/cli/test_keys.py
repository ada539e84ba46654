"""`randygpt keys` as a user meets it: made, taken in, shown and given out, with and without a password."""

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import invoke, only_line, randygpt
from support.terminal import typed

from randygpt.cli.main import run
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

Capture = pytest.CaptureFixture[str]
OPENS = "hunter2"


@pytest.fixture
def home(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CREDENTIALS_DIRECTORY", "RANDYGPT_NSEC"):
        monkeypatch.delenv(name, raising=False)
    return at_home


def secret_file(path: Path, text: str, *, mode: int = 0o600) -> Path:
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(mode)
    return path


def shown(capsys: Capture, *words: str) -> str:
    assert run(["keys", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.strip()


def refused(capsys: Capture, *words: str) -> str:
    assert run(["keys", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return only_line(err)


def test_two_new_keys_differ(home: Path, capsys: Capture) -> None:
    first = shown(capsys, "new")
    (home / "keys/nsec").unlink()
    assert shown(capsys, "new") != first


@pytest.mark.parametrize("form", ["nsec", "ncryptsec"])
def test_import_key_from_file(home: Path, capsys: Capture, key: SecretKey, form: str) -> None:
    secret = key.reveal_nsec() if form == "nsec" else key.reveal_ncryptsec(OPENS)
    file, password = secret_file(home / "old", secret), secret_file(home / "pw", OPENS)
    assert shown(capsys, "import", str(file), "--password-file", str(password)) == encode_npub(key.pubkey)
    kept = home / "keys/nsec"
    assert kept.read_text(encoding="ascii") == f"{secret}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "a key exists already" in refused(capsys, "import", str(file), "--password-file", str(password))


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_import_key_from_stdin(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, key: SecretKey, mark: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{mark}{key.reveal_nsec()}\n"))
    assert json.loads(shown(capsys, "import", "--json")) == {
        "npub": encode_npub(key.pubkey),
        "pubkey": key.pubkey.hex(),
        "file": str(home / "keys/nsec"),
        "kind": "local",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key in it"),
        ("hunter2", "not a secret key"),
        ("npub1hunter2", "this is a public key (npub)"),
        ("nsec1hunter2", "not a valid nsec"),
        ("bunker://hunter2?relay=wss://relay.example", "names a remote signer (NIP-46)"),
        (" ".join(["hunter2"] * 12), "seed words (NIP-06) are not supported"),
        ("0" * 64, "not a secp256k1 secret key"),
    ],
    ids=["empty", "word", "npub", "nsec", "bunker", "seed words", "zero"],
)
def test_invalid_key_is_refused_without_echo(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{text}\n"))
    message = refused(capsys, "import")
    assert says in message
    assert "hunter2" not in message
    assert not (home / "keys").exists()


@pytest.mark.parametrize("form", [str.lower, str.upper])
def test_import_key_from_64_hex_digits(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, form: Callable[[str], str]
) -> None:
    secret = form("ab" * 32)
    key = SecretKey(bytes.fromhex(secret))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{secret}\n"))
    assert run(["keys", "import"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == encode_npub(key.pubkey)
    assert "check that this is your npub" in only_line(err)
    assert (home / "keys/nsec").read_text(encoding="ascii").strip() == key.reveal_nsec()


@pytest.mark.usefixtures("home")
def test_hex_key_in_arguments_is_refused_without_echo(capsys: Capture) -> None:
    secret = "ab" * 32
    message = refused(capsys, "import", secret)
    assert "SECRET" in message
    assert secret not in message


def test_encrypted_key_shows_its_npub_without_password(home: Path, capsys: Capture, key: SecretKey) -> None:
    file, password = secret_file(home / "old", key.reveal_ncryptsec(OPENS)), secret_file(home / "pw", OPENS)
    npub = shown(capsys, "import", str(file), "--password-file", str(password))
    assert shown(capsys, "show") == npub == encode_npub(key.pubkey)
    assert stat.S_IMODE((home / "keys/npub").stat().st_mode) == 0o600
    (home / "keys/npub").unlink()  # as an earlier version left it
    wrong = secret_file(home / "wrong", "hunter3")
    assert "wrong password" in refused(capsys, "show", "--password-file", str(wrong))
    assert shown(capsys, "show", "--password-file", str(password)) == shown(capsys, "show") == npub


def test_npub_of_another_key_is_not_shown(home: Path, capsys: Capture, key: SecretKey, stranger: SecretKey) -> None:
    password = secret_file(home / "pw", OPENS)
    file = secret_file(home / "old", key.reveal_ncryptsec(OPENS))
    shown(capsys, "import", str(file), "--password-file", str(password))
    secret_file(home / "keys/nsec", stranger.reveal_ncryptsec(OPENS))
    assert shown(capsys, "show", "--password-file", str(password)) == encode_npub(stranger.pubkey)
    assert shown(capsys, "show") == encode_npub(stranger.pubkey)


def test_secret_file_readable_by_others_is_refused(home: Path, capsys: Capture, key: SecretKey) -> None:
    file = secret_file(home / "old", key.reveal_nsec(), mode=0o640)
    assert f"chmod 600 {file}" in refused(capsys, "import", str(file))
    password = secret_file(home / "pw", OPENS, mode=0o644)
    assert f"chmod 600 {password}" in refused(capsys, "new", "--new-password-file", str(password))
    assert not (home / "keys").exists()


def test_key_in_arguments_is_refused_without_echo(home: Path, capsys: Capture, key: SecretKey) -> None:
    nsec = key.reveal_nsec()
    for words in (["import", nsec], ["show", f"--key-file={nsec.upper()}"], ["new", nsec]):
        line = refused(capsys, *words)
        assert "SECRET" in line
        assert nsec not in line.lower()
    assert run([f"--train-file={nsec}"]) == 2
    assert nsec not in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_exported_key_can_be_imported(home: Path, capsys: Capture) -> None:
    npub = shown(capsys, "new")
    assert shown(capsys, "export", "plain") == "plain"
    password = secret_file(home / "pw", OPENS)
    assert shown(capsys, "export", "locked", "--new-password-file", str(password)) == "locked"
    for name in ("plain", "locked"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
        assert shown(capsys, "show", "--key-file", name, "--password-file", str(password)) == npub
        (home / "keys/nsec").unlink()
        assert shown(capsys, "import", name, "--password-file", str(password)) == npub
    assert (home / "plain").read_text().startswith("nsec1")
    assert (home / "locked").read_text().startswith("ncryptsec1")


def test_export_prints_only_with_stdout_flag(home: Path, capsys: Capture) -> None:
    shown(capsys, "new")
    secret = (home / "keys/nsec").read_text().strip()
    assert "pass --stdout" in refused(capsys, "export")
    assert "pass --stdout" in refused(capsys, "export", "file", "--stdout")
    assert not (home / "file").exists()
    assert shown(capsys, "export", "--stdout") == secret
    assert json.loads(shown(capsys, "export", "--stdout", "--json"))["secret"] == secret
    assert secret not in shown(capsys, "export", "file", "--json")


def test_export_overwrites_nothing(home: Path, capsys: Capture) -> None:
    shown(capsys, "new")
    (home / "mine").write_text("mine")
    assert "the file already exists: mine" in refused(capsys, "export", "mine")
    assert (home / "mine").read_text() == "mine"
    assert "the folder gone does not exist" in refused(capsys, "export", "gone/mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "the file has no password"), ("\n", "the file has no password"), ("wrong", "wrong password for")],
)
def test_wrong_password_file_is_refused(home: Path, capsys: Capture, key: SecretKey, text: str, says: str) -> None:
    (home / "keys").mkdir()
    secret_file(home / "keys/nsec", key.reveal_ncryptsec(OPENS))
    assert says in refused(capsys, "show", "--password-file", str(secret_file(home / "pw", text)))


def test_terminal_asks_for_passwords_without_echo(home: Path) -> None:
    asked = {"New password: ": OPENS, "Repeat the password: ": OPENS}
    code, screen = typed(home, "keys", "new", "--encrypt", answers=asked)
    assert code == 0
    npub = screen.split()[-1]
    assert npub.startswith("npub1")
    assert (home / "keys/nsec").read_text().startswith("ncryptsec1")
    words = ("keys", "export", "--stdout", "--json")
    code, again = typed(home, *words, answers={f"Password of {home}/keys/nsec: ": OPENS})
    assert (code, npub in again) == (0, True)
    assert OPENS not in screen + again


def test_password_mismatch_makes_no_key(home: Path) -> None:
    asked = {"New password: ": OPENS, "Repeat the password: ": OPENS + "3"}
    code, screen = typed(home, "keys", "new", "--encrypt", answers=asked)
    assert (code, "passwords do not match" in screen) == (2, True)
    assert not (home / "keys").exists()


def test_terminal_asks_for_key_without_echo(home: Path, key: SecretKey) -> None:
    code, screen = typed(
        home, "keys", "import", answers={"Secret key (nsec, ncryptsec or 64 hex digits): ": key.reveal_nsec()}
    )
    assert (code, encode_npub(key.pubkey) in screen, key.reveal_nsec() in screen) == (0, True, False)
    assert (home / "keys/nsec").read_text().strip() == key.reveal_nsec()


@pytest.mark.parametrize(
    "answer", [pytest.param("", id="nothing", marks=pytest.mark.full), pytest.param("\x04", id="end of file")]
)
def test_empty_answer_makes_no_key(home: Path, answer: str) -> None:
    code, screen = typed(home, "keys", "import", answers={"Secret key (nsec, ncryptsec or 64 hex digits): ": answer})
    assert (code, "nothing was entered" in screen) == (2, True)


def test_encrypted_key_without_terminal_needs_password_file(home: Path, key: SecretKey) -> None:
    (home / "keys").mkdir()
    secret_file(home / "keys/nsec", key.reveal_ncryptsec(OPENS))
    done = randygpt(home, "keys", "show", start_new_session=True)
    assert done.returncode == 2
    assert "no terminal to ask for a password" in only_line(done.stderr)
    password = secret_file(home / "pw", OPENS)
    assert invoke(home, "keys", "show", "--password-file", password).stdout.strip() == encode_npub(key.pubkey)

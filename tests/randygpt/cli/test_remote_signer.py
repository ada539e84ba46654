"""`randygpt` with its key in a remote signer: paired once, then used like a local key, and never believed."""

import asyncio
import json
import os
import signal
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support.bunker import TOKEN, Bunker, Reply, bunker_on_thread, signs
from support.command import invoke, invoke_with_input, only_line
from support.models import write_tiny
from support.process import restored_handlers
from websockets.asyncio.client import connect

from randygpt import aio
from randygpt.cli import bunker as bunker_commands
from randygpt.cli.main import run
from randygpt.user import signing_key
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub
from relay_client.nip46 import remote_signer
from relay_client.nip46.remote_signer import RemoteSigner
from relay_client.timeouts import Timeouts

RELEASE, HEAD, PART, DELETION = 4181, 34181, 1064, 5
PERMISSIONS = [4181, 34181, 1064, 5, 24242, 10063, 10002, 1063, 0, 31990]


@pytest.fixture(autouse=True)
def _long_wait_before_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print no notice because the machine is busy."""
    for function in (RemoteSigner.__init__, remote_signer.pair, remote_signer.accept_pairing):
        monkeypatch.setitem(function.__kwdefaults__, "timeouts", Timeouts(sign_notice_s=60))  # type: ignore[arg-type]


@pytest.fixture
def bunker(free_port: int) -> Iterator[Bunker]:
    with bunker_on_thread(free_port) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, bunker: Bunker) -> Path:
    """A home that is paired with the signer, with a model to publish."""
    write_tiny(tmp_path / "checkpoint_best.bin", name="demo")
    done = invoke(tmp_path, "keys", "bunker", bunker.uri)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{encode_npub(bunker.user.pubkey)}\n"
    return tmp_path


def publish(home: Path, bunker: Bunker, *words: str) -> tuple[int, str, str]:
    done = invoke(home, "publish", "checkpoint_best.bin", "--relay", bunker.relay, "--yes", *words)
    return done.returncode, done.stdout, done.stderr


def test_pairing_keeps_no_secret_of_the_signer(home: Path, bunker: Bunker) -> None:
    kept = home / "keys/bunker"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert TOKEN not in kept.read_text()
    assert list(kept.parent.iterdir()) == [kept]
    assert bunker.asked[0]["params"][2] == ",".join(f"sign_event:{kind}" for kind in PERMISSIONS)


def test_address_is_read_from_stdin(tmp_path: Path, bunker: Bunker) -> None:
    done = invoke_with_input(tmp_path, f"{bunker.uri}\n".encode(), "keys", "bunker", "--json")
    assert json.loads(done.stdout) == {
        "npub": encode_npub(bunker.user.pubkey),
        "pubkey": bunker.user.pubkey.hex(),
        "file": str(tmp_path / "keys/bunker"),
        "kind": "remote",
        "relays": [bunker.relay],
    }


@pytest.mark.parametrize("words", [["keys", "new"], ["keys", "bunker", "bunker://x"], ["keys", "connect"]])
def test_second_key_is_refused(home: Path, words: list[str]) -> None:
    done = invoke(home, *words)
    assert done.returncode == 2
    assert "a key exists already" in only_line(done.stderr)
    assert str(home / "keys/bunker") in done.stderr


def test_local_key_is_not_replaced_by_a_signer(author: Path, bunker: Bunker) -> None:
    done = invoke(author, "keys", "bunker", bunker.uri)
    assert done.returncode == 2
    assert f"a key exists already: {author / 'keys/nsec'}" in only_line(done.stderr)
    assert bunker.asked == []


def test_show_says_where_the_key_is(
    home: Path, bunker: Bunker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(invoke(home, "keys", "show", "--json").stdout)["kind"] == "remote"
    monkeypatch.setenv("RANDYGPT_HOME", str(home))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with restored_handlers():
        assert run(["keys", "show"]) == 0
    assert capsys.readouterr().err == (f"the secret key is in your remote signer, which listens at {bunker.relay}\n")
    exported = invoke(home, "keys", "export", "--stdout")
    assert exported.returncode == 2
    assert "stays in your remote signer" in only_line(exported.stderr)


def test_signer_publishes_and_revokes(home: Path, bunker: Bunker) -> None:
    code, out, err = publish(home, bunker, "--json")
    assert code == 0, err
    assert sorted(bunker.signed_kinds) == [PART, RELEASE, HEAD]
    release = json.loads(out)["release"]
    fetched = invoke(home, "fetch", release, "--relay", bunker.relay, "--json")
    assert fetched.returncode == 0, fetched.stderr
    assert json.loads(fetched.stdout)["author"] == encode_npub(bunker.user.pubkey)
    assert publish(home, bunker)[0] == 0
    assert len(bunker.signed_kinds) == 3  # the relay has everything
    revoked = invoke(home, "revoke", release, "--relay", bunker.relay)
    assert revoked.returncode == 0, revoked.stderr
    assert bunker.signed_kinds[3:] == [DELETION]


def test_events_are_written_to_a_file(home: Path, bunker: Bunker) -> None:
    code, _, err = publish(home, bunker, "--out", "release.jsonl")
    assert code == 0, err
    events = [json.loads(line) for line in (home / "release.jsonl").read_text().splitlines()]
    assert events[-1]["pubkey"] == events[-2]["pubkey"] == bunker.user.pubkey.hex()
    assert sorted(bunker.signed_kinds) == [PART, RELEASE, HEAD]


def test_api_signs_with_the_signer(home: Path, bunker: Bunker) -> None:
    path = home / "checkpoint_best.bin"
    published = asyncio.run(aio.publish(path, name="demo", relays=[bunker.relay], home=home))
    assert published.author == encode_npub(bunker.user.pubkey)
    assert sorted(bunker.signed_kinds) == [PART, RELEASE, HEAD]


async def refuses(_bunker: Bunker, _draft: dict[str, Any]) -> AsyncIterator[Reply]:
    yield {"error": "not\x1b[2J now"}


async def signs_as_another(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
    async for reply in signs(bunker, draft, bunker.key):
        yield reply


async def signs_another_version(bunker: Bunker, draft: dict[str, Any]) -> AsyncIterator[Reply]:
    async for reply in signs(bunker, draft | {"created_at": draft["created_at"] - 1}):
        yield reply


@pytest.mark.parametrize(
    ("sign", "code", "words"),
    [
        (refuses, 4, "your signer refuses "),
        (signs_as_another, 3, "signed as npub1"),
        (signs_another_version, 3, "changed the event"),
    ],
    ids=["refuses", "signs as another", "signs something else"],
)
def test_wrong_signer_is_one_line(home: Path, bunker: Bunker, sign: Any, code: int, words: str) -> None:  # noqa: ANN401
    bunker.sign = sign
    ended, out, err = publish(home, bunker, "--quiet")
    assert (ended, out) == (code, "")
    assert words in only_line(err)
    assert "\x1b" not in err


def test_ctrl_c_ends_the_wait(home: Path, bunker: Bunker) -> None:
    async def is_interrupted(_bunker: Bunker, _draft: dict[str, Any]) -> AsyncIterator[Reply]:
        os.kill(os.getpid(), signal.SIGINT)
        for reply in list[Reply]():
            yield reply

    bunker.sign = is_interrupted
    code, out, err = publish(home, bunker, "--quiet")
    assert (code, out, err) == (130, "", "interrupted\n")
    bunker.sign = signs
    assert publish(home, bunker, "--quiet")[0] == 0


def test_publish_continues_after_the_signer_died(home: Path, bunker: Bunker, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = Timeouts(sign_s=0.4, sign_repeat_s=0.2, sign_notice_s=0.1)
    monkeypatch.setitem(RemoteSigner.__init__.__kwdefaults__, "timeouts", hurried)  # type: ignore[arg-type]
    bunker.answers = 1  # the manifest; then it is gone
    code, _, err = publish(home, bunker, "--quiet")
    assert code == 4
    waiting, failure = err.splitlines()
    assert waiting == "waiting for your signer to approve: release demo 1"
    assert failure == ("randygpt: your signer did not answer in time: approve release demo 1 there, and run this again")
    bunker.answers = 10
    code, _, err = publish(home, bunker, "--json")
    assert code == 0, err
    drafts = [each["params"][0] for each in bunker.asked if each["method"] == "sign_event"]
    assert len({draft for draft in drafts if '"kind":4181' in draft}) == 1  # the same release, asked for again


def test_signer_scans_the_address(tmp_path: Path, bunker: Bunker, monkeypatch: pytest.MonkeyPatch) -> None:
    scanners: list[threading.Thread] = []

    def show(text: str) -> None:
        parts = urlsplit(text.splitlines()[-1])
        if parts.scheme != "nostrconnect":
            return
        scanners.append(threading.Thread(target=asyncio.run, args=[scan(parts.netloc, parse_qs(parts.query))]))
        scanners[-1].start()

    async def scan(client: str, query: dict[str, list[str]]) -> None:
        assert query["name"] == ["randygpt"]
        async with connect(query["relay"][0]) as socket:
            while not bunker.asked:  # until the command listens
                await bunker.send(socket, bytes.fromhex(client), {"id": "1", "result": query["secret"][0]})
                await asyncio.sleep(0.05)

    monkeypatch.setattr(bunker_commands, "print_stderr", show)
    done = invoke(tmp_path, "keys", "connect", "--relay", bunker.relay)
    scanners[0].join()
    assert (done.returncode, done.stdout) == (0, f"{encode_npub(bunker.user.pubkey)}\n")
    assert json.loads((tmp_path / "keys/bunker").read_text())["signer"] == bunker.key.pubkey.hex()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"signer": 1, "user": 2, "relays": 3, "client_key": 4}'],
    ids=["empty", "list", "no fields", "numbers"],
)
def test_damaged_pairing_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/bunker").write_text(text)
    (tmp_path / "keys/bunker").chmod(0o600)
    done = invoke(tmp_path, "keys", "show")
    assert done.returncode == 2
    assert "damaged; delete the file" in only_line(done.stderr)


def test_pairing_that_others_can_read_is_refused(home: Path) -> None:
    (home / "keys/bunker").chmod(0o644)
    done = invoke(home, "keys", "show")
    assert done.returncode == 2
    assert "accessible to other users" in only_line(done.stderr)


def test_local_sources_come_before_the_signer(home: Path, key: SecretKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_key, "_taken_from_environment", "")  # it would be remembered
    named = home / "named"
    named.write_text(key.reveal_nsec())
    named.chmod(0o600)
    assert invoke(home, "keys", "show", "--key-file", named).stdout.strip() == encode_npub(key.pubkey)
    done = invoke(home, "keys", "show", RANDYGPT_NSEC=key.reveal_nsec())
    assert done.stdout.strip() != encode_npub(key.pubkey)
    assert "RANDYGPT_NSEC is not used" in done.stderr

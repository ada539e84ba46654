"""NIP-05 addresses of authors on the command line: looked up, remembered, refused when their key changes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.public_network import PUBLIC, WebServer, lead_to, server_context, web_server

from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

ADDRESS = "alice@web.example/demo"


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SecretKey) -> Iterator[WebServer]:
    context = server_context(tmp_path, ["web.example"], monkeypatch)
    with web_server(context) as (server, local):
        lead_to(monkeypatch, {"web.example": PUBLIC}, local)
        server.answer({"names": {"alice": key.pubkey.hex(), "_": key.pubkey.hex()}})
        yield server


def remembered(home: Path) -> dict[str, str]:
    found = json.loads(invoke(home, "trust", "list", "--json").stdout)["addresses"]
    assert isinstance(found, dict)
    return found


def test_model_is_fetched_by_a_nip05_address(friend: Path, web: WebServer, key: SecretKey) -> None:
    npub = encode_npub(key.pubkey)
    shown = invoke(friend, "show", ADDRESS, "--json")
    assert (shown.returncode, json.loads(shown.stdout)["author"], remembered(friend)) == (0, npub, {})
    fetched = invoke(friend, "fetch", f"{ADDRESS}@1")
    assert fetched.returncode == 0
    note = f"alice@web.example is {npub}; to trust this author: randygpt trust add {npub} alice"
    assert only_line(fetched.stderr) == note
    assert remembered(friend) == {"alice@web.example": npub}
    asked = len(web.asked)
    assert json.loads(invoke(friend, "show", ADDRESS, "--json").stdout)["name"] == "demo"
    assert invoke(friend, "use", f"nostr:{ADDRESS}@1").returncode == 0
    assert len(web.asked) == asked  # what is installed is found by the remembered key


def test_nip05_address_alone_lists_its_models(friend: Path, web: WebServer, key: SecretKey) -> None:
    for command in ("show", "fetch"):
        done = invoke(friend, command, "alice@web.example")
        assert (done.returncode, "demo@1" in done.stdout) == (0, True)
        assert f"alice@web.example is {encode_npub(key.pubkey)}" in done.stderr
    assert remembered(friend) == {}
    assert invoke(friend, "list").stdout == ""
    (friend / "alice@web.example").write_bytes(b"a file")
    asked = len(web.asked)
    assert invoke(friend, "show", "alice@web.example").returncode == 2
    assert len(web.asked) == asked


@pytest.mark.parametrize("name", ["web.example/demo", "_@web.example/demo", "_@WEB.example/demo"])
def test_domain_alone_names_its_root_key(friend: Path, web: WebServer, name: str) -> None:
    assert invoke(friend, "fetch", name).returncode == 0
    assert list(remembered(friend)) == ["web.example"]
    assert web.asked == ["web.example/.well-known/nostr.json?name=_"]


@pytest.mark.usefixtures("web")
def test_search_takes_a_nip05_address(friend: Path, key: SecretKey) -> None:
    done = invoke(friend, "search", "--author", "alice@web.example", "--json")
    assert [model["author"] for model in json.loads(done.stdout)] == [encode_npub(key.pubkey)]
    assert "alice@web.example is npub1" in only_line(done.stderr)
    assert remembered(friend) == {}
    assert "no author 'alice@web'" in only_line(invoke(friend, "search", "--author", "alice@web").stderr)


@pytest.mark.parametrize("name", [{"alice": "22" * 32}, {}], ids=["another key", "no key"])
def test_changed_key_of_a_name_is_refused(
    friend: Path, web: WebServer, key: SecretKey, stranger: SecretKey, name: dict[str, str]
) -> None:
    assert invoke(friend, "fetch", ADDRESS).returncode == 0
    web.answer({"names": {each: stranger.pubkey.hex() for each in name}})
    for words in (("fetch",), ("follow", "--once")):
        refused = invoke(friend, *words, ADDRESS)
        assert refused.returncode == 3
        assert f"before, it named {encode_npub(key.pubkey)}" in only_line(refused.stderr)
    assert remembered(friend) == {"alice@web.example": encode_npub(key.pubkey)}
    assert invoke(friend, "trust", "forget", "alice@web.example").returncode == 0
    assert invoke(friend, "fetch", ADDRESS).returncode == 4  # the stranger published nothing, or no key is named
    assert encode_npub(key.pubkey) not in remembered(friend).values()


def test_unreachable_domain_leaves_the_remembered_key(friend: Path, web: WebServer) -> None:
    web.answer(b"", status="503 Service Unavailable")
    first = invoke(friend, "fetch", ADDRESS)
    assert (first.returncode, remembered(friend)) == (4, {})
    web.answer({"names": {"alice": encode_npub(b"\1" * 32)}})
    assert invoke(friend, "fetch", ADDRESS).returncode == 3
    trusted = {"addresses": {"alice@web.example": SecretKey(bytes.fromhex("11" * 32)).pubkey.hex()}}
    (friend / "state").mkdir(exist_ok=True)
    (friend / "state" / "trust.json").write_text(json.dumps(trusted))
    web.answer(b"", status="503 Service Unavailable")
    again = invoke(friend, "fetch", ADDRESS)
    assert again.returncode == 0
    assert "status 503; using the key that it named before" in only_line(again.stderr)


def test_petname_comes_before_a_nip05_address(friend: Path, web: WebServer, key: SecretKey) -> None:
    assert invoke(friend, "trust", "add", encode_npub(key.pubkey), "alice@web.example").returncode == 0
    assert invoke(friend, "fetch", ADDRESS).returncode == 0
    assert web.asked == []


def test_path_of_a_missing_file_asks_no_domain(friend: Path, web: WebServer) -> None:
    done = invoke(friend, "show", "web.example/model.bin")
    assert (done.returncode, web.asked) == (2, [])

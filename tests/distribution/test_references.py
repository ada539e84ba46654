"""References of a published release: their hints, and the command that works on another machine."""

import pytest

from distribution.events import Release, release_draft
from distribution.references import make_references
from relay_client.keys import SecretKey
from relay_client.nip19 import parse_reference

PUBLIC = ("wss://a.example", "wss://b.example", "wss://c.example", "wss://d.example")
LOCAL, NETWORK = "ws://127.0.0.1:7777", "ws://192.168.1.5:7777"


@pytest.fixture
def release(key: SecretKey) -> Release:
    draft = release_draft(
        b"a manifest",
        [bytes(32)],
        name="demo",
        version=1,
        format="RGPT0003",
        size=1,
        card={},
        hint="wss://relay.example",
        created_at=1,
    )
    return Release.parse(draft.sign(key), now=1)


@pytest.mark.parametrize(
    ("relays", "copies", "hints", "named"),
    [
        pytest.param((PUBLIC[0],), None, (PUBLIC[0],), (), id="public"),
        pytest.param((LOCAL, PUBLIC[0]), None, (PUBLIC[0],), (), id="public and local"),
        pytest.param((NETWORK, PUBLIC[0]), None, (PUBLIC[0], NETWORK), (), id="public and network"),
        pytest.param(PUBLIC, None, PUBLIC[:3], (), id="more than readers follow"),
        pytest.param(PUBLIC, 1, PUBLIC[:3], PUBLIC, id="chunks spread over more than readers follow"),
        pytest.param(PUBLIC[:2], 1, PUBLIC[:2], (), id="chunks spread over as many as readers follow"),
        pytest.param((LOCAL, NETWORK), None, (NETWORK,), (NETWORK,), id="network"),
        pytest.param((LOCAL,), None, (), (LOCAL,), id="local"),
    ],
)
def test_hints_and_named_relays(
    release: Release,
    relays: tuple[str, ...],
    copies: int | None,
    hints: tuple[str, ...],
    named: tuple[str, ...],
) -> None:
    found = make_references(release, relays, copies=copies)
    assert parse_reference(found.nevent).relays == parse_reference(found.naddr).relays == hints
    assert found.relays == named
    assert found.only_local == (relays == (LOCAL,))


def test_command_is_one_word_per_argument(release: Release) -> None:
    found = make_references(release, ["ws://10.0.0.1/a?b&c"])
    assert found.command == f"randygpt fetch {found.naddr} --relay 'ws://10.0.0.1/a?b&c'"


@pytest.mark.parametrize(
    ("servers", "named"),
    [
        ((), []),
        (("http://10.0.0.1:7778",), ["--server", "http://10.0.0.1:7778"]),
        (("http://10.0.0.1:7778", "https://blobs.example"), []),
    ],
    ids=["none", "local network", "public"],
)
def test_command_names_servers_that_readers_cannot_find(
    release: Release, servers: tuple[str, ...], named: list[str]
) -> None:
    found = make_references(release, ["wss://relay.example"], servers=servers)
    assert found.command.split()[3:] == named

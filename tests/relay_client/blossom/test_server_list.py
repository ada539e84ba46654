"""Lists of an author's Blossom servers (BUD-03)."""

from relay_client.blossom.server_list import extend_list, listed_servers
from relay_client.event import Event, EventDraft, Tags
from relay_client.keys import SecretKey

A, B = "https://a.example", "https://b.example"


def server_list(key: SecretKey, *tags: tuple[str, ...], created_at: int = 100, content: str = "") -> Event:
    chosen: Tags = tuple(tags)
    return EventDraft(kind=10063, created_at=created_at, tags=chosen, content=content).sign(key)


def test_listed_servers_are_few_and_valid(key: SecretKey) -> None:
    tags = [("server", "HTTPS://A.example/"), ("server", A), ("server", "a\x1b"), ("server",), ("r", B)]
    event = server_list(key, *tags, *(("server", f"https://{n}.example") for n in range(50)))
    assert listed_servers(event) == [A, *(f"https://{n}.example" for n in range(15))]


def test_extended_list_keeps_what_is_there(key: SecretKey) -> None:
    tags = (("server", "https://a.example/"), ("server", "odd"), ("client", "x"))
    event = server_list(key, *tags, created_at=500, content="note")
    draft = extend_list(event, [A, B, B], now=100)
    assert draft
    assert (draft.tags, draft.content, draft.created_at) == ((*tags, ("server", B)), "note", 501)
    assert extend_list(event, [A], now=100) is None


def test_first_list_names_the_servers() -> None:
    draft = extend_list(None, [A], now=100)
    assert draft
    assert (draft.kind, draft.tags, draft.created_at) == (10063, (("server", A),), 100)

"""The state machine of one request to a remote signer."""

import orjson
import pytest

from relay_client.event import EventDraft
from relay_client.keys import SecretKey
from relay_client.nip46.exchange import Exchange
from relay_client.nip46.messages import Method, Request

CLIENT, SIGNER, STRANGER = SecretKey.generate(), SecretKey.generate(), SecretKey.generate()
URL = "https://signer.example/approve"


@pytest.fixture
def exchange() -> Exchange:
    request = Request(id="7", method=Method.GET_PUBLIC_KEY)
    return Exchange(client_key=CLIENT, signer=SIGNER.pubkey, request=request, deadline=60, patience_s=60)


def answer(
    fields: object, *, by: SecretKey = SIGNER, to: SecretKey = CLIENT, kind: int = 24133, tag: bytes = CLIENT.pubkey
) -> dict[str, object]:
    text = fields if isinstance(fields, str) else orjson.dumps(fields).decode()
    content = by.encrypt(to.pubkey, text)
    event = EventDraft(kind=kind, created_at=1, tags=(("p", tag.hex()),), content=content).sign(by)
    return {**event.to_dict(), "tags": [["p", tag.hex()]]}


def test_request_is_encrypted_and_new_each_time(exchange: Exchange) -> None:
    first, second = exchange.event(created_at=5), exchange.event(created_at=5)
    assert first.id != second.id
    assert first.tag_values("p") == [SIGNER.pubkey.hex()]
    assert orjson.loads(SIGNER.decrypt(CLIENT.pubkey, first.content)) == {
        "id": "7",
        "method": "get_public_key",
        "params": [],
    }


def test_first_answer_counts(exchange: Exchange) -> None:
    assert exchange.wants_sending
    assert exchange.receive(answer({"id": "7", "result": "one"}), now=1)
    assert exchange.receive(answer({"id": "7", "result": "two"}), now=2)
    assert exchange.response is not None
    assert exchange.response.result == "one"
    assert not exchange.wants_sending


def test_answer_to_another_request_is_ignored(exchange: Exchange) -> None:
    assert exchange.receive(answer({"id": "6", "result": "old"}), now=1)
    assert exchange.response is None


@pytest.mark.parametrize(
    "raw_event",
    [
        answer({"id": "7", "result": "x"}, by=STRANGER),
        answer({"id": "7", "result": "x"}, to=STRANGER),
        answer({"id": "7", "result": "x"}, tag=STRANGER.pubkey),
        answer({"id": "7", "result": "x"}, kind=24134),
        answer({"id": "7", "result": "x"}) | {"pubkey": STRANGER.pubkey.hex()},
        answer("no JSON"),
        answer(["7"]),
        answer({"id": 7, "result": "x"}),
        {"kind": 24133},
    ],
    ids=["stranger", "to another", "tags another", "kind", "forged", "no JSON", "list", "number as id", "no event"],
)
def test_foreign_message_is_not_an_answer(exchange: Exchange, raw_event: dict[str, object]) -> None:
    assert not exchange.receive(raw_event, now=1)
    assert exchange.response is None


def test_auth_url_puts_the_deadline_off_once(exchange: Exchange) -> None:
    asks = answer({"id": "7", "result": "auth_url", "error": URL})
    assert exchange.receive(asks, now=50)
    assert (exchange.auth_url, exchange.deadline, exchange.response) == (URL, 110, None)
    assert not exchange.wants_sending
    assert exchange.receive(asks, now=100)
    assert exchange.deadline == 110
    assert exchange.receive(answer({"id": "7", "result": "x", "error": None}), now=105)
    assert exchange.response is not None


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://a\u202egpj.exe", "http://[", f"https://{'a' * 2_000}"])
def test_auth_url_that_is_no_web_address_is_a_refusal(exchange: Exchange, url: str) -> None:
    assert exchange.receive(answer({"id": "7", "result": "auth_url", "error": url}), now=1)
    assert exchange.auth_url == ""
    assert exchange.response is not None
    assert exchange.response.error == url


def test_result_may_be_an_object(exchange: Exchange) -> None:
    assert exchange.receive(answer({"id": "7", "result": {"kind": 1}}), now=1)
    assert exchange.response is not None
    assert exchange.response.result == '{"kind":1}'

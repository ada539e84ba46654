"""JSON of peers that is nested deeper than Python can print or write, but not than it is read."""

import io

import orjson
import pytest

from distribution.event_file import EventFile
from distribution.events import RELEASE_KIND
from relay_client.blossom.descriptor import BlobDescriptor
from relay_client.blossom.response import describe_refusal
from relay_client.errors import InvalidMessage, InvalidResponse
from relay_client.event import claimed_id
from relay_client.filter import Filter
from relay_client.gather import BY_ID
from relay_client.nip05 import Nip05Address, parse_answer
from relay_client.nip46.messages import Response

NESTED = "[" * 1010 + "]" * 1010


def test_descriptor_without_a_usable_url_counts() -> None:
    raw = f'{{"sha256":"{"ab" * 32}","size":1,"url":{NESTED},"type":{NESTED}}}'
    assert BlobDescriptor.parse(raw.encode()).url == ""


@pytest.mark.parametrize("field", ["message", "error", "reason"])
def test_refusal_has_a_reason_of_few_characters(field: str) -> None:
    words = describe_refusal(400, {}, f'{{"{field}":{NESTED}}}'.encode())
    assert words.startswith("does not understand the request: list")


def test_nested_key_of_a_name_is_refused() -> None:
    with pytest.raises(InvalidResponse, match="not a key in hex"):
        parse_answer(f'{{"names":{{"alice":{NESTED}}}}}'.encode(), Nip05Address.parse("alice@a.example"))


def test_nested_result_of_a_signer_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="nested too deeply"):
        Response.parse(f'{{"id":"a","result":{NESTED}}}')


@pytest.mark.parametrize("raw_id", [NESTED, "{}", "1", "null"])
async def test_event_with_an_id_that_is_no_text_is_skipped(raw_id: str) -> None:
    line = f'{{"kind":{RELEASE_KIND},"id":{raw_id},"pubkey":{raw_id},"tags":[]}}\n'.encode()
    assert claimed_id(orjson.loads(line)) == ""
    file = EventFile(io.BytesIO(line), "events.jsonl")
    wanted = Filter(ids=(bytes(32),), authors=(bytes(32),), limit=1)
    assert await file.query(wanted) == []
    assert await file.query(Filter(authors=(bytes(32),), limit=1)) == []
    assert await file.gather([bytes(32)], lambda _url, _raw_event: True, BY_ID) == [bytes(32)]

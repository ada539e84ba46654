"""Blob descriptors, as servers send them."""

import orjson
import pytest

from relay_client.blossom.descriptor import BlobDescriptor
from relay_client.errors import InvalidResponse

HASH = bytes(range(32))


def test_descriptor_survives_json() -> None:
    made = BlobDescriptor(sha256=HASH, size=7, url="https://blobs.example/x", type="text/plain", uploaded=9)
    assert BlobDescriptor.parse(orjson.dumps(made.to_dict())) == made


@pytest.mark.parametrize(
    "raw_body",
    [b"", b"[]", b'{"sha256":"00","size":1}', orjson.dumps({"sha256": HASH.hex(), "size": -1}), b'{"size":true}'],
)
def test_other_reply_is_no_descriptor(raw_body: bytes) -> None:
    with pytest.raises(InvalidResponse):
        BlobDescriptor.parse(raw_body)

"""Cutting of bytes into chunks, and their base64."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribution.chunking import CHUNK_SIZE, count, decode, decode_exactly, encode, encoded_length, spans
from distribution.errors import InvalidChunk
from distribution.events import chunk_draft
from relay_client.keys import SecretKey
from relay_client.messages import encode_event


def test_chunk_has_46080_bytes_and_no_padding() -> None:
    assert CHUNK_SIZE == 46_080
    assert "=" not in encode(bytes(CHUNK_SIZE))
    assert len(encode(bytes(CHUNK_SIZE))) == encoded_length(CHUNK_SIZE) == 61_440


def test_full_chunk_event_fits_common_relays(key: SecretKey) -> None:
    data = bytes(CHUNK_SIZE)
    event = chunk_draft(data, sha256=hashlib.sha256(data).digest(), created_at=1_790_000_000).sign(key)
    assert len(encode_event(event)) <= 65_536


@pytest.mark.parametrize(
    ("length", "chunks"), [(0, 0), (1, 1), (46_079, 1), (46_080, 1), (46_081, 2), (92_160, 2), (92_161, 3)]
)
def test_count(length: int, chunks: int) -> None:
    assert count(length) == chunks


def test_spans_of_two_segments() -> None:
    assert list(spans([46_081, 3])) == [(0, 46_080), (46_080, 1), (46_081, 3)]
    assert list(spans([10, 4], 4)) == [(0, 4), (4, 4), (8, 2), (10, 4)]
    assert list(spans([])) == list(spans([0])) == []


@given(st.lists(st.integers(0, 200), max_size=5), st.integers(1, 60))
def test_spans_cover_all_bytes_and_cross_no_segment(lengths: list[int], chunk_size: int) -> None:
    found = list(spans(lengths, chunk_size))
    borders = {sum(lengths[:index]) for index in range(len(lengths) + 1)}
    end = 0
    for offset, size in found:
        assert offset == end
        assert 0 < size <= chunk_size
        end = offset + size
        assert not any(offset < border < end for border in borders)
        assert size == chunk_size or end in borders
    assert end == sum(lengths)
    assert len(found) == sum(count(length, chunk_size) for length in lengths)


@given(st.binary(max_size=300))
def test_encode_is_standard_base64_and_reversible(data: bytes) -> None:
    text = encode(data)
    assert text == base64.b64encode(data).decode()
    assert len(text) == encoded_length(len(data))
    assert decode(text) == data
    assert decode_exactly(text, size=len(data), sha256=hashlib.sha256(data).digest()) == data


@pytest.mark.parametrize(
    "content",
    [
        "QUI",
        "QUJD=",
        "QQ=",
        "QQ===",
        "Q",
        "=",
        "QUJD\n",
        "QUJ D",
        " QUJD",
        "QUJD\0",
        "QU-_",
        "QUI=QUI=",
        "Q=Q=",
        "QUJ!",
        "ÄÖÜß",
        "QUJ\u0661",
        "QUJ\ud800",
    ],
    ids=ascii,
)
def test_decode_accepts_strict_base64_only(content: str) -> None:
    with pytest.raises(InvalidChunk, match="not base64"):
        decode(content)


def test_oversized_chunk_is_refused_before_decoding() -> None:
    assert decode(encode(bytes(CHUNK_SIZE))) == bytes(CHUNK_SIZE)
    for content in (encode(bytes(CHUNK_SIZE + 1)), "!" * 61_441):
        with pytest.raises(InvalidChunk, match="more than 46080 bytes"):
            decode(content)


@pytest.mark.parametrize(
    ("content", "size", "wrong"),
    [
        (encode(b"other"), 5, "do not match"),
        (encode(b"hello!"), 5, "do not match"),
        (encode(b"hell"), 5, "do not match"),
        (encode(b"hel"), 5, "has 4 characters"),
        (encode(b"hello12"), 5, "has 12 characters"),
        ("", 5, "has 0 characters"),
        ("!" * 8, 5, "not base64"),
        (encode(b"hello"), 6, "do not match"),
        (encode(b"hello"), 3, "has 8 characters"),
    ],
)
def test_decode_exactly_checks_size_and_hash(content: str, size: int, wrong: str) -> None:
    with pytest.raises(InvalidChunk, match=wrong):
        decode_exactly(content, size=size, sha256=hashlib.sha256(b"hello").digest())

"""The trust list on disk."""

from pathlib import Path

import pytest

from distribution.errors import CallerError, NotTrusted, StoreError
from distribution.trust_list import TrustList, TrustStore
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub


@pytest.fixture
def book(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path)


def test_missing_list_is_empty_and_explicit(book: TrustStore, tmp_path: Path, key: SecretKey) -> None:
    trusted = book.read()
    assert (trusted, list(tmp_path.iterdir())) == (TrustList(), [])
    trusted.policy.check(key.pubkey)
    assert trusted.display_name(key.pubkey) == encode_npub(key.pubkey)


async def test_author_is_added_renamed_and_removed(
    book: TrustStore, tmp_path: Path, key: SecretKey, stranger: SecretKey
) -> None:
    await book.add(key.pubkey, "alice")
    await book.add(stranger.pubkey, "bob")
    await book.add(key.pubkey, "Älice of Wonderland")
    trusted = TrustStore(tmp_path).read()
    assert trusted.names == {key.pubkey: "Älice of Wonderland", stranger.pubkey: "bob"}
    assert trusted.display_name(key.pubkey) == f"Älice of Wonderland ({encode_npub(key.pubkey)})"
    assert await book.remove("bob") == stranger.pubkey
    assert await book.remove(encode_npub(key.pubkey)) == key.pubkey
    assert book.read() == TrustList()


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\nb", "a\x1b[31m", "bob"])
async def test_misleading_name_is_refused(book: TrustStore, key: SecretKey, stranger: SecretKey, name: str) -> None:
    await book.add(stranger.pubkey, "bob")
    with pytest.raises(CallerError, match=r"a name for an author|already on your trust list"):
        await book.add(key.pubkey, name)
    assert book.read().names == {stranger.pubkey: "bob"}


@pytest.mark.parametrize("who", ["stranger", "npub1xyz", "0" * 64])
async def test_unlisted_author_cannot_be_removed(book: TrustStore, key: SecretKey, who: str) -> None:
    await book.add(key.pubkey, "alice")
    with pytest.raises(CallerError, match="not on your trust list"):
        await book.remove(who)
    assert book.read().names == {key.pubkey: "alice"}


async def test_allowlist_refuses_unlisted_authors(book: TrustStore, key: SecretKey, stranger: SecretKey) -> None:
    await book.set_mode("allowlist")
    await book.add(key.pubkey, "alice")
    book.read().policy.check(key.pubkey)
    with pytest.raises(NotTrusted):
        book.read().policy.check(stranger.pubkey)
    await book.set_mode("explicit")
    book.read().policy.check(stranger.pubkey)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"policy": "anybody"}',
        b'{"policy": ["explicit"]}',
        b'{"authors": []}',
        b'{"authors": {"zz": "x"}}',
    ],
)
async def test_damaged_list_never_counts_as_empty(
    book: TrustStore, tmp_path: Path, key: SecretKey, text: bytes
) -> None:
    await book.add(key.pubkey, "alice")
    path = tmp_path / "state" / "trust.json"
    path.write_bytes(text)
    with pytest.raises(StoreError, match=r"trust\.json: damaged"):
        book.read()
    with pytest.raises(StoreError, match=r"trust\.json: damaged"):
        await book.set_mode("allowlist")
    assert path.read_bytes() == text

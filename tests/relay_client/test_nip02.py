"""Follow lists (NIP-02)."""

from relay_client.event import Event, EventDraft, Tags
from relay_client.keys import SecretKey
from relay_client.nip02 import FOLLOW_LIST_KIND, MAX_FOLLOWED, followed_authors


def follow_list(key: SecretKey, *tags: tuple[str, ...], created_at: int = 1) -> Event:
    chosen: Tags = tuple(tags)
    return EventDraft(kind=FOLLOW_LIST_KIND, created_at=created_at, tags=chosen).sign(key)


def test_latest_list_of_the_author_counts(key: SecretKey, stranger: SecretKey) -> None:
    lists = [
        follow_list(key, ("p", "aa" * 32), created_at=1),
        follow_list(key, ("p", "bb" * 32, "wss://relay.example", "bob"), ("p", "bb" * 32), created_at=2),
        follow_list(stranger, ("p", "cc" * 32), created_at=3),
    ]
    assert followed_authors(lists, author=key.pubkey) == [b"\xbb" * 32]
    assert followed_authors([], author=key.pubkey) == []


def test_invalid_keys_are_skipped_and_length_limited(key: SecretKey) -> None:
    tags = [("p",), ("p", "npub1"), ("e", "aa" * 32), *(("p", f"{number:064x}") for number in range(MAX_FOLLOWED + 9))]
    assert len(followed_authors([follow_list(key, *tags)], author=key.pubkey)) == MAX_FOLLOWED

"""Trust decisions: authors and versions."""

import itertools
from dataclasses import replace

import pytest

from distribution.errors import Equivocation, NotTrusted, Rollback
from distribution.events import Head, Release, release_draft
from distribution.seen_versions import Seen, SeenVersion
from distribution.trust import TrustPolicy, check_version, latest
from relay_client.keys import SecretKey
from relay_client.nip19 import encode_npub

KEY = SecretKey(bytes.fromhex("11" * 32))
A, B = b"\xaa" * 32, b"\xbb" * 32


def head(*, version: int = 1, created_at: int = 100, id_byte: int = 1, x: bytes = A) -> Head:
    return Head(
        id=bytes([id_byte]) * 32,
        author=KEY.pubkey,
        created_at=created_at,
        name="demo",
        version=version,
        manifest_sha256=x,
        release_id=B,
    )


def release(version: int) -> tuple[Release, bytes]:
    """Return a release and the hash of its manifest."""
    draft = release_draft(
        b"", [A], name="demo", version=version, format="x", size=1, card={}, hint="", created_at=100
    ).sign(KEY)
    made = Release.parse(draft, now=100)
    return made, made.manifest_sha256


# --- policy


def test_explicit_policy_trusts_any_author() -> None:
    TrustPolicy().check(KEY.pubkey)
    TrustPolicy(authors=frozenset({A})).check(KEY.pubkey)


def test_allowlist_trusts_listed_authors_only() -> None:
    policy = TrustPolicy(mode="allowlist", authors=frozenset({KEY.pubkey}))
    policy.check(KEY.pubkey)
    stranger = SecretKey(bytes.fromhex("22" * 32))
    with pytest.raises(NotTrusted, match=encode_npub(stranger.pubkey)):
        policy.check(stranger.pubkey)


def test_empty_allowlist_trusts_no_author() -> None:
    with pytest.raises(NotTrusted):
        TrustPolicy(mode="allowlist").check(KEY.pubkey)


# --- latest


def test_latest_of_no_heads_is_none() -> None:
    assert latest([]) is None


@pytest.mark.parametrize(
    ("best", "others"),
    [
        (head(version=10), [head(version=9, created_at=999), head(version=2, id_byte=0)]),
        (head(created_at=300), [head(created_at=200, id_byte=0), head(created_at=100)]),
        (head(id_byte=1), [head(id_byte=2), head(id_byte=255)]),
        (head(version=2, created_at=5, id_byte=3), [head(version=2, created_at=4, id_byte=1), head(created_at=9)]),
        (head(version=2), [head(version=1, x=B), head(version=1, x=A)]),
    ],
    ids=["version", "time", "id", "time before id", "older equivocation"],
)
def test_latest_does_not_depend_on_order(best: Head, others: list[Head]) -> None:
    for order in itertools.permutations([best, *others]):
        assert latest(order) == best


@pytest.mark.parametrize("others", [[], [head(version=1)], [head(version=2, created_at=999, id_byte=9)]])
def test_two_contents_of_one_version_are_equivocation(others: list[Head]) -> None:
    two = [head(version=2), head(version=2, x=B, created_at=200, id_byte=2)]
    for order in itertools.permutations([*two, *others]):
        with pytest.raises(Equivocation, match="version 2 of demo"):
            latest(order)


def test_repeated_heads_are_not_equivocation() -> None:
    assert latest([head(), head()]) == head()


def test_head_of_a_revoked_release_is_ignored() -> None:
    heads = [head(version=1), replace(head(version=2), release_id=A), replace(head(version=3), release_id=A)]
    assert latest(heads, {A}) == heads[0]
    assert latest(heads[1:], {A}) is None


def test_revoked_content_is_not_equivocation() -> None:
    two = [head(version=2), replace(head(version=2, x=B), release_id=A)]
    assert latest(two, {A}) == two[0]


# --- seen versions


@pytest.mark.parametrize("asked_by_id", [True, False])
@pytest.mark.parametrize("version", [1, 5, 2**31 - 1])
def test_first_version_of_a_name_is_accepted(version: int, *, asked_by_id: bool) -> None:
    check_version(release(version)[0], Seen(), asked_by_id=asked_by_id)


@pytest.mark.parametrize(
    ("version", "same", "asked_by_id", "error"),
    [
        (5, True, False, None),
        (5, True, True, None),
        (5, False, False, Equivocation),
        (5, False, True, Equivocation),
        (6, False, False, None),
        (6, False, True, None),
        (6, True, False, None),
        (4, False, False, Rollback),
        (4, True, False, Rollback),
        (4, False, True, None),
        (4, True, True, None),
    ],
)
def test_versions_after_version_5_was_seen(
    *, version: int, same: bool, asked_by_id: bool, error: type[Exception] | None
) -> None:
    made, digest = release(version)
    seen = Seen(versions={5: SeenVersion(release_id=A, manifest_sha256=digest if same else B)})
    if error is None:
        check_version(made, seen, asked_by_id=asked_by_id)
    else:
        with pytest.raises(error, match=f"version {version} of demo"):
            check_version(made, seen, asked_by_id=asked_by_id)


def seen_of(*versions: int, revoked: tuple[int, ...] = (), x: bytes = B) -> Seen:
    ids = {version: bytes([version]) * 32 for version in versions}
    known = {version: SeenVersion(release_id=ids[version], manifest_sha256=x) for version in versions}
    return Seen(versions=known, revoked=frozenset(ids[version] for version in revoked))


def test_lower_version_is_accepted_if_higher_are_revoked() -> None:
    older = release(3)[0]
    with pytest.raises(Rollback, match="older than 5"):
        check_version(older, seen_of(1, 4, 5, revoked=(4,)), asked_by_id=False)
    with pytest.raises(Rollback, match="older than 4"):
        check_version(older, seen_of(1, 4, 5, revoked=(5,)), asked_by_id=False)
    check_version(older, seen_of(1, 4, 5, revoked=(4, 5)), asked_by_id=False)


def test_revoked_version_can_be_replaced() -> None:
    check_version(release(5)[0], seen_of(5, revoked=(5,)), asked_by_id=False)
    with pytest.raises(Equivocation):
        check_version(release(5)[0], seen_of(5), asked_by_id=False)

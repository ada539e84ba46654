"""Signatures of a release's chunks by a throw-away key, kept in place of the key. No I/O.

All chunks are signed before the first is sent, and the key is forgotten: a rerun sends the same events, and no secret
is ever stored.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from distribution.errors import CallerError, StoreError
from distribution.manifest import is_digest
from relay_client.event import EventSigner, Signer
from relay_client.keys import SecretKey, local_key

_ID, _SIGNATURE = 32, 64  # bytes
_RECORD = _ID + _SIGNATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSignatures:
    """A `relay_client.event.Signer` that repeats the signatures of a key that no longer exists.

    Raises:
        StoreError: The values cannot be those of a key.
    """

    pubkey: bytes  # x-only public key, 32
    by_id: Mapping[bytes, bytes] = field(repr=False)  # event id -> BIP-340 signature

    def __post_init__(self) -> None:
        sizes = {(len(event_id), len(signature)) for event_id, signature in self.by_id.items()}
        if not is_digest(self.pubkey) or not sizes <= {(_ID, _SIGNATURE)}:
            raise StoreError("the signatures of a release's chunks are damaged")

    @classmethod
    def make(cls, key: Signer, ids: Iterable[bytes]) -> Self:
        """Sign the events with these ids."""
        return cls(pubkey=key.pubkey, by_id={event_id: key.sign(event_id) for event_id in ids})

    @classmethod
    def decode(cls, pubkey: bytes, encoded: bytes) -> Self:
        """Read what `encode` returned; raises StoreError."""
        if len(encoded) % _RECORD:
            raise StoreError("the signatures of a release's chunks are damaged")
        records = (encoded[start : start + _RECORD] for start in range(0, len(encoded), _RECORD))
        return cls(pubkey=pubkey, by_id={record[:_ID]: record[_ID:] for record in records})

    def encode(self) -> bytes:
        """Return (event id ‖ signature) of each chunk, 96 bytes."""
        return b"".join(event_id + signature for event_id, signature in self.by_id.items())

    def sign(self, digest: bytes) -> bytes:
        """Return the signature of an event id that was signed before; raises CallerError for any other."""
        try:
            return self.by_id[digest]
        except KeyError:
            raise CallerError("a file changed while it was being published") from None


def make_chunk_key(author: EventSigner, *, throwaway: bool | None = None) -> SecretKey | None:
    """Return a new throw-away key for the chunks of a release, or None if the author is to sign them.

    Args:
        author: Signer of the release.
        throwaway: Whether to make one; None: only if the author's signer is remote.
    """
    is_wanted = local_key(author) is None if throwaway is None else throwaway
    return SecretKey.generate() if is_wanted else None

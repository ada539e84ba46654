"""Tokens for the requests of one operation: a signature serves up to 40 blobs at all its servers.

Does no I/O but the signer's.
"""

import asyncio
from collections.abc import Callable, Sequence

from relay_client.batches import batched
from relay_client.blossom.token import LIFETIME_S, MAX_HASHES, Verb, encode_header, token_draft
from relay_client.event import EventSigner


class Authorizer:
    """Signs tokens when they are first needed, and again when they get old.

    Args:
        signer: Key that uploads or deletes.
        verb: What the tokens allow.
        hashes: SHA-256 of every blob of the operation.
        origins: Servers of the operation.
        now: Clock, in seconds since 1970.
    """

    def __init__(
        self,
        signer: EventSigner,
        verb: Verb,
        *,
        hashes: Sequence[bytes],
        origins: Sequence[str],
        now: Callable[[], int],
    ) -> None:
        self.signatures = 0  # made so far
        self._signing = asyncio.Lock()
        self._signer = signer
        self._verb = verb
        self._origins = origins
        self._now = now
        batches = batched(dict.fromkeys(hashes), MAX_HASHES)
        self._batch = {digest: batch for batch in batches for digest in batch}
        self._made: dict[tuple[bytes, ...], tuple[int, str]] = {}  # blobs -> time and header

    async def header(self, sha256: bytes, *, fresh: bool = False) -> str:
        """Return the header `Authorization` for a blob of the operation; `fresh`: from a new token.

        Raises what the signer's `sign_event` raises.
        """
        batch = self._batch[sha256]
        async with self._signing:  # parallel requests for the same blobs share one signature
            made_at, header = self._made.get(batch, (0, ""))
            now = self._now()
            if fresh or not made_at <= now < made_at + LIFETIME_S // 2 or not header:
                draft = token_draft(self._verb, hashes=batch, origins=self._origins, now=now)
                made_at, header = now, encode_header(await self._signer.sign_event(draft))
                self._made[batch] = made_at, header
                self.signatures += 1
            return header

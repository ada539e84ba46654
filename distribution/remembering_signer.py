"""Signatures of a remote signer, recorded so that a rerun does not ask the person again. Disk I/O by the journal."""

import contextlib

from distribution.journal import Journal
from relay_client.errors import InvalidEvent
from relay_client.event import Event, EventDraft, EventSigner


class RememberingSigner:
    """An `EventSigner` that asks another one for what the journal has no signature of.

    Args:
        signer: The signer to ask.
        journal: Open journal.
    """

    def __init__(self, signer: EventSigner, journal: Journal) -> None:
        self._signer = signer
        self._journal = journal
        self.pubkey = signer.pubkey

    async def sign_event(self, draft: EventDraft) -> Event:
        """Return the signed event; raises what the signer raises, and StoreError."""
        event_id = draft.id_for(self.pubkey)
        if signature := self._journal.signature(event_id):
            with contextlib.suppress(InvalidEvent):  # a damaged signature
                return Event(
                    id=event_id,
                    pubkey=self.pubkey,
                    created_at=draft.created_at,
                    kind=draft.kind,
                    tags=draft.tags,
                    content=draft.content,
                    sig=signature,
                )
        event = await self._signer.sign_event(draft)
        self._journal.record_signature(event.id, event.sig)
        return event

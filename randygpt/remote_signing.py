"""Remote signers (NIP-46) for the user's events: what they are asked to sign, in their terms and in the user's.

Does network I/O when a signer is used.
"""

import collections
from collections.abc import Callable

from distribution.announce import HANDLER_KIND, NOTE_KIND
from distribution.events import CHUNK_KIND, FILE_KIND, HEAD_KIND, RELEASE_KIND
from distribution.revocation import REVOCATION_KIND
from relay_client.blossom.server_list import SERVER_LIST_KIND
from relay_client.blossom.token import TOKEN_KIND
from relay_client.event import EventDraft
from relay_client.nip46.pairing import Pairing
from relay_client.nip46.remote_signer import RemoteSigner
from relay_client.nip65 import RELAY_LIST_KIND
from relay_client.profile import PROFILE_KIND

CLIENT_NAME = "randygpt"

_DESCRIPTIONS = {  # what an event of a kind is, with the values of its tags
    RELEASE_KIND: "release {name} {version}",
    HEAD_KIND: "{d} {version} as its latest version",
    CHUNK_KIND: "a part of the release's manifest",
    REVOCATION_KIND: "a deletion request",
    TOKEN_KIND: "a token to {t} files at {server}",
    SERVER_LIST_KIND: "your list of servers",
    RELAY_LIST_KIND: "your list of relays",
    FILE_KIND: "a file event",
    PROFILE_KIND: "your profile",
    NOTE_KIND: "a note about a model",
    HANDLER_KIND: "what reads releases, for other programs",
}
# The kinds that the user signs, and nothing else: no encryption, no authentication to relays. A note speaks to people
# in the name of the user: the signer should ask about each.
PERMISSIONS = ",".join(f"sign_event:{kind}" for kind in _DESCRIPTIONS if kind != NOTE_KIND)


def describe_draft(draft: EventDraft) -> str:
    """Return in a few words what an event is, for the user who has to approve it."""
    values = collections.defaultdict(str, {tag[0]: tag[1] for tag in reversed(draft.tags) if len(tag) > 1})
    return _DESCRIPTIONS.get(draft.kind, f"an event of kind {draft.kind}").format_map(values)


def remote_signer(pairing: Pairing, say: Callable[[str], None]) -> RemoteSigner:
    """Return the signer of a pairing, which says with `say` what it waits for."""
    return RemoteSigner(
        pairing,
        describe=describe_draft,
        on_waiting=lambda what: say(describe_wait(what)),
        on_auth_url=lambda url: say(describe_auth_url(url)),
    )


def describe_wait(what: str) -> str:
    """Return in words what the user may have to approve."""
    return f"waiting for your signer to approve: {what}"


def describe_auth_url(url: str) -> str:
    """Return in words where the user has to approve."""
    return f"your signer wants you to approve at {url}"

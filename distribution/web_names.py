"""NIP-05 addresses of authors: looked up, remembered, and refused when their key changes.

Does network I/O; what is remembered is in the trust list.
"""

from collections.abc import Callable

from distribution.errors import CallerError, NotFound, NotTrusted
from distribution.events import HEAD_KIND
from distribution.resolve import split_version, split_web_name
from distribution.trust_list import TrustList, TrustStore
from relay_client.errors import TransportError
from relay_client.hints import usable_hints
from relay_client.nip05 import ROOT_NAME, Nip05Address, Nip05Key
from relay_client.nip05_lookup import look_up
from relay_client.nip19 import encode_naddr, encode_npub, strip_scheme

OnNote = Callable[[str], None]


async def find_author(store: TrustStore, address: Nip05Address, *, remember: bool, on_note: OnNote) -> Nip05Key:
    """Return the key that a domain names, and the one that it named before if it cannot be reached.

    Args:
        store: Trust list with the keys that names had before.
        address: The name.
        remember: Refuse any other key from now on.
        on_note: Called with which key it is, in words.

    Raises:
        NotTrusted: The domain names another key than before, or none any more.
        NotFound: It names none.
        PeerError, TransportError: as `look_up`, for a name that is not remembered.
        StoreError: The trust list is damaged.
    """
    trusted = store.read()
    known = trusted.addresses.get(str(address))
    try:
        found = await look_up(address)
    except TransportError as error:
        if known is None:
            raise
        on_note(f"{error}; using the key that it named before: {trusted.display_name(known)}")
        return Nip05Key(pubkey=known)
    _check_same(trusted, address, found, known)
    if found is None:
        raise NotFound(f"{address}: {address.domain} names no key for {address.name}")
    if remember and known is None:
        await store.remember(str(address), found.pubkey)
    on_note(_describe(trusted, address, found.pubkey))
    return found


async def spell_out(text: str, store: TrustStore, *, remember: bool, on_note: OnNote) -> str:
    """Return a typed name of a model with the author's key, as an naddr, in place of a NIP-05 address.

    Any other text is returned as it is. Raises what `find_author` raises.
    """
    words, version = split_version(text)
    if not (named := split_web_name(words, store.read())):
        return text
    address, name = named
    found = await find_author(store, address, remember=remember, on_note=on_note)
    hints = usable_hints(found.relays, known=())
    naddr = encode_naddr(name, author=found.pubkey, kind=HEAD_KIND, relays=hints)
    return naddr if version is None else f"{naddr}@{version}"


def address_alone(text: str, trusted: TrustList) -> Nip05Address | None:
    """Return `alice@example.com` if a text is nothing but such a name, and no petname; None for anything else."""
    text = strip_scheme(text)
    if "@" not in text or "/" in text or text in trusted.names.values():
        return None
    try:
        return Nip05Address.parse(text)
    except CallerError:
        return None


def _check_same(trusted: TrustList, address: Nip05Address, found: Nip05Key | None, known: bytes | None) -> None:
    if known is None or (found and found.pubkey == known):
        return
    now = f"names another key now, {encode_npub(found.pubkey)}" if found else "names no key any more"
    raise NotTrusted(
        f"{address} {now}; before, it named {trusted.display_name(known)}: refused. If its owner confirms the change: "
        f"randygpt trust forget {address}"
    )


def _describe(trusted: TrustList, address: Nip05Address, author: bytes) -> str:
    described = f"{address} is {trusted.display_name(author)}"
    if author in trusted.names:
        return described
    petname = address.domain.partition(".")[0] if address.name == ROOT_NAME else address.name
    return f"{described}; to trust this author: randygpt trust add {encode_npub(author)} {petname}"

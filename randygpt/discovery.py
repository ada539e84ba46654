"""Search for models with the user's relays, trust list and follow list. Does network and disk I/O."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distribution.author_claims import MAX_ASKED, ask_names
from distribution.resolve import resolve_author
from distribution.search import Searcher, SearchResult
from distribution.search_results import Claims, KnownAuthors, SearchQuery
from distribution.store import Store
from distribution.trust_list import TrustStore
from distribution.web_names import find_author
from randygpt.errors import InvalidModelFile
from randygpt.model.config import ModelConfig
from randygpt.own_lists import query_followed
from randygpt.user import signing_key
from randygpt.user.home import Home
from randygpt.user.signer import known_pubkey
from relay_client.nip05 import Nip05Address
from relay_client.nip11 import fetch_relay_infos
from relay_client.pool import Pool


async def search_models(home: Home, query: SearchQuery, *, relays: Sequence[str] | None = None) -> SearchResult:
    """Return the models on relays that match a query, those of trusted and followed authors first.

    Args:
        home: Where relays, trust list and installed models are, and the key whose follow list counts, if any.
        query: What to look for.
        relays: URLs; by default the user's.

    Raises:
        CallerError: No relay is given.
        TransportError: No relay can be reached.
        StorageError: The trust list or the store is damaged.
    """
    urls, trusted = home.resolve_relays(relays), frozenset(TrustStore(home.folder).read().names)
    own = known_pubkey(home)
    async with Pool(urls, signer=signing_key.signer(home), wait_for_all=False) as pool:
        followed, word_relays = await asyncio.gather(_followed(pool, own, query), _word_relays(pool, query))
        searcher = Searcher(
            pool=pool,
            query=query,
            known=KnownAuthors(
                trusted=trusted,
                followed=frozenset(followed),
                models=frozenset((each.author, each.name) for each in Store(home.folder).releases()),
            ),
            read_card=read_claims,
            now=int(time.time()),
            word_relays=word_relays,
        )
        result = await searcher.search()
        strangers = list(dict.fromkeys(model.author for model in result.models if model.author not in trusted))
        names = await ask_names(pool, strangers[:MAX_ASKED], now=searcher.now) if strangers else {}
        return replace(result, claimed_names=names or {})


async def _followed(pool: Pool, own: bytes | None, query: SearchQuery) -> list[bytes]:
    return await query_followed(pool, own) if own and query.author is None else []


async def _word_relays(pool: Pool, query: SearchQuery) -> set[str]:
    """Return the relays that offer search by words (NIP-50), if the query has any."""
    if not query.words or query.author is not None:
        return set()
    infos = await fetch_relay_infos(pool.urls, pool.timeouts)
    return {url for url, info in infos.items() if info.searches}


async def find_author_key(home: Home, text: str, *, on_note: Callable[[str], None]) -> bytes:
    """Return the public key of an author: npub, name on the trust list, or NIP-05 address.

    Args:
        home: Where the trust list is.
        text: What the user typed.
        on_note: Called with which key a NIP-05 address has, in words.

    Raises:
        CallerError: It names no author.
        PeerError, TransportError, StorageError: as `distribution.web_names.find_author`.
    """
    store = TrustStore(home.folder)
    trusted = store.read()
    if "." not in text or text in trusted.names.values():
        return resolve_author(trusted, text)
    found = await find_author(store, Nip05Address.parse(text), remember=False, on_note=on_note)
    return found.pubkey


def read_claims(card: Mapping[str, object]) -> Claims:
    """Return what a card says of a model; values of a wrong form are left out."""
    raw_training = card.get("training")
    training: Mapping[str, object] = raw_training if isinstance(raw_training, dict) else {}
    loss = _positive(training.get("val_loss"))
    return Claims(
        parameters=_parameters(card.get("config")),
        loss=_positive(training.get("best_loss")) if loss is None else loss,
        bits_per_byte=_positive(training.get("bits_per_byte")),
        license=_text(card.get("license")),
        about=_text(card.get("about")),
    )


def _parameters(raw_config: object) -> int | None:
    try:
        return ModelConfig.from_json(raw_config).parameter_count
    except InvalidModelFile:
        return None


def _positive(value: object) -> float | None:
    return float(value) if type(value) in {int, float} and 0 < value < math.inf else None  # type: ignore[operator,arg-type]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

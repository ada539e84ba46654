"""Publishing and fetching the tiny model through real sockets, and the visible files of a home."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from distribution.chunking import CHUNK_SIZE
from distribution.download import OnProgress
from distribution.fetch import Fetched, Fetcher
from distribution.journal import Journal
from distribution.partial import HeaderRewrite
from distribution.publish import Published, Publisher
from distribution.release_spec import ReleaseSpec
from distribution.source import SourceFile
from distribution.store import Store
from distribution.trust import TrustPolicy
from randygpt.checkpoint.header import WEIGHTS_MAGIC, segments
from relay_client.keys import SecretKey
from relay_client.nip19 import AddressReference, EventReference
from relay_client.pool import Pool
from relay_client.timeouts import DEFAULT_TIMEOUTS, Timeouts
from support.models import CONFIG, side_files, tiny_checkpoint

WEIGHTS_ONLY = HeaderRewrite(size=len(WEIGHTS_MAGIC), apply=lambda _: WEIGHTS_MAGIC)


def clock() -> int:
    return int(time.time())


def checkpoint_bytes(*, seed: int = 0) -> bytes:
    """Return an RGPT0003 file of the tiny model: one chunk of weights, two of optimizer state."""
    checkpoint = tiny_checkpoint(seed=seed)
    assert checkpoint.optimizer_state is not None
    parts = (checkpoint.weights, *checkpoint.optimizer_state)
    return checkpoint.header.encode() + b"".join(part.tobytes() for part in parts)


def source(path: str, role: str, data: bytes, cuts: Sequence[tuple[str, int]] | None = None) -> SourceFile:
    file: BinaryIO = io.BytesIO(data)
    return SourceFile(path=path, role=role, file=file, segments=tuple(cuts or [("data", len(data))]))


def tiny_sources(*, seed: int = 0) -> list[SourceFile]:
    data = checkpoint_bytes(seed=seed)
    side = side_files()
    return [
        source("checkpoint_best.bin", "checkpoint", data, segments(CONFIG, len(data))),
        source("vocab.json", "tokenizer", side["vocab.json"]),
        source("config.json", "config", side["config.json"]),
    ]


def many_sources(chunks: int) -> list[SourceFile]:
    """Return the sources of a release whose checkpoint has `chunks` different chunks."""
    data = b"".join((1 + number).to_bytes(4, "big") * (CHUNK_SIZE // 4) for number in range(chunks))
    return [source("checkpoint.bin", "checkpoint", data, [("weights", len(data))]), *tiny_sources()[1:]]


async def publish(  # noqa: PLR0913 (whatever a test may want to vary)
    urls: Sequence[str],
    home: Path,
    key: SecretKey,
    files: Sequence[SourceFile],
    *,
    name: str = "demo",
    new_version: bool = False,
    now: Callable[[], int] = clock,
    copies: int | None = None,
    check: bool = False,
    expires_in_s: int | None = None,
    card: Mapping[str, object] = MappingProxyType({}),
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    servers: Sequence[str] = (),
    send_chunks: bool = True,
    chunk_key: SecretKey | None = None,
) -> Published:
    with Journal(home / "state" / "journal.sqlite") as journal:
        async with Pool(urls, signer=key, timeouts=timeouts) as pool:
            publisher = Publisher(
                pool=pool,
                journal=journal,
                key=key,
                now=now,
                copies=copies,
                check=check,
                servers=servers,
                send_chunks=send_chunks,
                chunk_key=chunk_key,
            )
            spec = ReleaseSpec(
                files=tuple(files),
                name=name,
                format="RGPT0003",
                card=dict(card),
                new_version=new_version,
                expires_in_s=expires_in_s,
            )
            return await publisher.publish(spec)


async def fetch(  # noqa: PLR0913 (whatever a test may want to vary)
    urls: Sequence[str],
    home: Path,
    reference: EventReference | AddressReference | bytes,
    *,
    policy: TrustPolicy | None = None,
    max_size: int = 1 << 30,
    weights: HeaderRewrite | None = None,
    on_progress: OnProgress = lambda _done, _total: None,
    on_warning: Callable[[str], None] = lambda _text: None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    servers: Sequence[str] = (),
) -> Fetched:
    if isinstance(reference, bytes):
        reference = EventReference(id=reference)
    async with Pool(urls, timeouts=timeouts, wait_for_all=False) as pool:
        fetcher = Fetcher(
            pool=pool,
            store=Store(home),
            policy=policy or TrustPolicy(),
            now=clock,
            max_size=max_size,
            on_progress=on_progress,
            on_warning=on_warning,
            servers=servers,
        )
        return await fetcher.fetch(reference, weights=weights)


def visible(home: Path) -> dict[str, bytes]:
    """Return the contents of installed releases, blobs, refs and state by path, without locks and partial files."""
    found = {}
    for folder in ("store/releases", "store/blobs", "store/refs", "state"):
        for path in sorted((home / folder).rglob("*")):
            if path.is_file() and path.suffix != ".lock":
                found[str(path.relative_to(home))] = path.read_bytes()
    return found

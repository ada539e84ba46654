"""`randygpt publish`: a checkpoint, with what is needed to use it, as signed events."""

import asyncio
import io
import json
import math
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from randygpt.cli.output import Json, Quiet, Relays, byte_progress, emit, remark, size
from randygpt.cli.relays import chosen
from randygpt.errors import CallerError, InvalidCheckpoint, InvalidModelFile
from randygpt.settings import Home

if TYPE_CHECKING:
    from distribution.publish import OnProgress, Published
    from distribution.source import SourceFile
    from randygpt.sidecar import Description
    from relay_client.keys import SecretKey

EXAMPLE = "Example: randygpt publish checkpoint_best.bin --name shakespeare --relay wss://relay.example"

_HINTS = 3  # relays named in an nevent


def publish(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint (RGPT0001 to RGPT0003).")],
    name: Annotated[str | None, typer.Option(help="What to call it; by default what the JSON beside it says.")] = None,
    relay: Relays = None,
    key_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Sign with the nsec in this file.")] = None,
    preset: Annotated[str | None, typer.Option(help="Its shape, where nothing beside the file says.")] = None,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its vocab.json, if not what is beside the file.")
    ] = None,
    license_: Annotated[str | None, typer.Option("--license", help="A licence, for the card.")] = None,
    about: Annotated[str | None, typer.Option(help="A few words, for the card.")] = None,
    new_version: Annotated[bool, typer.Option("--new-version", help="A new version of the same bytes.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a model. The same files again send only what the relays lack, and keep their id."""
    from randygpt.sidecar import describe

    home = Home.from_environment()
    urls, key = chosen(home, relay), home.read_key(key_file)
    found = describe(checkpoint, preset=preset, vocab=vocab)
    name = name or _default_name(found)
    extra = {key: value for key, value in (("license", license_), ("about", about)) if value}
    with checkpoint.open("rb") as file, byte_progress("publishing", shown=not (as_json or quiet)) as on_progress:
        files, card = _sources(file, found), _card(found) | extra
        job = _publish(home, urls, key, files, name, found.header.magic, card, on_progress, new_version=new_version)
        published = asyncio.run(job)
    if published.resumed and extra and not quiet:
        remark("published before: the card stays as it was then; --new-version makes a new one")
    _report(published, as_json=as_json, quiet=quiet)


def _default_name(found: "Description") -> str:
    from distribution.manifest import is_name

    if found.sidecar and found.sidecar.name:
        return found.sidecar.name
    folder = found.path.absolute().parent.name
    if not is_name(folder):
        raise CallerError("no name for this model; give one with --name")
    return folder


def _sources(file: BinaryIO, found: "Description") -> "list[SourceFile]":
    """The files of the release; the checkpoint's header and size are those of the descriptor that will be read."""
    from distribution.source import SourceFile
    from randygpt.header import HEADER_SIZE, CheckpointHeader, segments

    if found.tokenizer is None:
        raise InvalidModelFile(f"{found.path}: no vocabulary beside it; name its vocab.json with --vocab")
    length = os.fstat(file.fileno()).st_size
    try:
        CheckpointHeader.parse(file.read(HEADER_SIZE)).moments(found.config, length)
    except InvalidCheckpoint as error:
        raise InvalidCheckpoint(f"{found.path}: {error}") from None
    files = [
        SourceFile(
            path=_release_path(found.path.name),
            role="checkpoint",
            file=file,
            segments=tuple(segments(found.config, length)),
        )
    ]
    for path, role, contents in (
        ("vocab.json", "tokenizer", found.tokenizer.to_json()),
        ("config.json", "config", found.config.to_json(found.tokenizer.kind)),
    ):
        data = json.dumps(contents, ensure_ascii=False, sort_keys=True).encode()
        files.append(SourceFile(path=path, role=role, file=io.BytesIO(data), segments=(("data", len(data)),)))
    return files


def _release_path(name: str) -> str:
    """A local file name as the protocol allows it."""
    stem = re.sub(r"[^a-z0-9._-]", "-", name.lower()).removesuffix(".bin")[-60:].strip("._-")
    return "checkpoint.bin" if stem in {"", "vocab", "config", "release"} else f"{stem}.bin"


def _card(found: "Description") -> dict[str, object]:
    """What the release says about itself: shape and training, from the file and the JSON beside it."""
    assert found.tokenizer is not None  # noqa: S101 (checked before)
    facts: dict[str, object] = {"iteration": found.header.iteration, "step": found.header.step}
    if math.isfinite(found.header.best_loss):
        facts["best_loss"] = found.header.best_loss
    if found.sidecar:
        facts |= {f"{name}_loss": value for name, value in found.sidecar.losses.items() if value is not None}
    return {"config": found.config.to_json(found.tokenizer.kind), "training": facts}


async def _publish(
    home: Home,
    urls: list[str],
    key: "SecretKey",
    files: "list[SourceFile]",
    name: str,
    release_format: str,
    card: dict[str, object],
    on_progress: "OnProgress",
    *,
    new_version: bool,
) -> "Published":
    from distribution.journal import Journal
    from distribution.publish import Publisher
    from relay_client.pool import Pool

    with Journal(home.journal_path) as journal:
        async with Pool(urls, signer=key) as pool:
            publisher = Publisher(
                pool=pool, journal=journal, key=key, now=lambda: int(time.time()), on_progress=on_progress
            )
            return await publisher.publish(files, name=name, format=release_format, card=card, new_version=new_version)


def _report(published: "Published", *, as_json: bool, quiet: bool) -> None:
    from distribution.announcement import RELEASE_KIND
    from relay_client.keys import encode_nevent, encode_npub

    release, relays = published.release, published.relays
    hints = [url for url, report in relays.items() if not report.reason][:_HINTS]
    nevent = encode_nevent(release.id, author=release.author, kind=RELEASE_KIND, relays=hints)
    result = {
        "release": release.id.hex(),
        "nevent": nevent,
        "name": release.name,
        "version": release.version,
        "files": [
            {"path": file.path, "size": file.size, "sha256": file.sha256.hex()} for file in published.manifest.files
        ],
        "events": published.events,
        "bytes": published.bytes,
        "relays": {
            url: {"accepted": report.accepted, "duplicate": report.duplicate, "refused": report.refused}
            for url, report in relays.items()
        },
    }
    if not quiet:
        for report in relays.values():
            if report.reason:
                remark(f"left out: {report.reason}")
        if all(not report.accepted for report in relays.values()):
            remark("nothing was sent: the relays have all of it already")
    author = encode_npub(release.author)
    text = "\n".join(
        [
            f"{release.name} version {release.version} by {author}",
            f"release  {release.id.hex()}",
            f"nevent   {nevent}",
            f"sent as  {published.events} events, {size(published.bytes)}",
            f"fetch    randygpt fetch {author}/{release.name}",
        ]
    )
    emit(as_json, result, text)

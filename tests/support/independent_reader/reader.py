"""Reading a release: from its name to its files."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from .events import (
    ANY,
    CHUNK,
    DECIMAL,
    HEAD,
    HEX32,
    MAX_VERSION,
    NAME,
    REVOCATION,
    Event,
    check_head,
    check_release,
    check_revocation,
    checked,
    chunk_bytes,
    once,
    values,
)
from .manifest import blobs, check_manifest, places, whole
from .refused import Refused, need

MAX_MANIFEST = 2_949_120  # bytes

Ask = Callable[[dict[str, Any]], Iterable[Event]]  # a filter -> what a relay sends for it
GetBlob = Callable[[str], bytes | None]  # a hash -> what a server sends for it


class Reader:
    """Reader of releases through `ask`, and of blobs through `get`; remembers the versions it has seen."""

    def __init__(self, ask: Ask, now: int, get: GetBlob = lambda _: None) -> None:
        self._ask = ask
        self._get = get
        self._now = now
        self.met: dict[tuple[str, str], dict[int, Event]] = {}  # (author, name) -> version -> release
        self.revoked: set[str] = set()  # ids of releases

    def read(self, reference: str, *, weights_only: bool = False) -> dict[str, bytes]:
        """Return the files of a release by path; `reference` is its id or pubkey/name."""
        author, _, name = reference.rpartition("/")
        release = self._latest(author, name) if author else self._release(reference)
        self._check_version(release, by_name=bool(author))
        manifest = self._manifest(release)
        need(sum(file["size"] for file in manifest["files"]) == int(once(release, "size", DECIMAL)), "sizes differ")
        events = self._chunks(manifest, weights_only=weights_only)
        files = {file["path"]: whole(file, manifest["chunk_size"], events, weights_only) for file in manifest["files"]}
        self._remember(release)
        return files

    def _found(self, wanted: dict[str, Any], check: Callable[[Event], object]) -> list[Event]:
        """Return the events of a filter that pass a check."""
        found = []
        for event in self._ask(wanted):
            try:
                check(event)
            except Refused:
                continue
            found.append(event)
        return found

    def _by_ids(self, ids: Iterable[str], check: Callable[[Event], object]) -> dict[str, Event]:
        """Return events by id, requested 50 at a time; missing and invalid ones are left out."""
        left, found = list(dict.fromkeys(ids)), {}
        while left:
            batch, left = left[:50], left[50:]
            for event in self._found({"ids": batch, "limit": len(batch)}, check):
                if event["id"] in batch:
                    found[event["id"]] = event
        return found

    def _release(self, release_id: str) -> Event:
        found = self._by_ids([release_id], lambda event: check_release(event, self._now))
        need(found, "no release came that holds")
        return found[release_id]

    def _latest(self, author: str, name: str) -> Event:
        wanted = {"authors": [author], "kinds": [HEAD], "#d": [name], "limit": 10}
        heads = [
            head
            for head in self._found(wanted, lambda event: check_head(event, self._now))
            if (head["pubkey"], once(head, "d", ANY)) == (author, name)
        ]
        named = [once(head, "e", HEX32) for head in heads]
        self._ask_revoked(author, [*named, *(release["id"] for release in self._met(author, name).values())])
        heads = [head for head in heads if once(head, "e", HEX32) not in self.revoked]
        need(heads, "no head came that holds")
        for version in sorted(set(map(version_of, heads)), reverse=True):
            counting = [(head, self._named(head)) for head in heads if version_of(head) == version]
            found = [(head, release) for head, release in counting if release]
            if found:
                need(len({once(head, "x", HEX32) for head, _ in found}) == 1, "equivocation")
                return min(found, key=lambda pair: (-pair[0]["created_at"], pair[0]["id"]))[1]
        raise Refused("no head counts")

    def _named(self, head: Event) -> Event | None:
        """Return the release that a head names; None if it is missing, invalid or differs from the head."""
        release_id = once(head, "e", HEX32)
        release = self._by_ids([release_id], lambda event: check_release(event, self._now)).get(release_id)
        if release is None:
            return None
        told = release["pubkey"], *(once(release, tag, ANY) for tag in ("name", "version", "x"))
        return release if told == (head["pubkey"], *(once(head, tag, ANY) for tag in ("d", "version", "x"))) else None

    def _ask_revoked(self, author: str, ids: Iterable[str]) -> None:
        """Record which of these releases their author revoked."""
        left = list(dict.fromkeys(ids))
        while left:
            batch, left = left[:50], left[50:]
            wanted = {"authors": [author], "kinds": [REVOCATION], "#e": batch, "limit": 100}
            for event in self._found(wanted, lambda event: check_revocation(event, self._now)):
                if event["pubkey"] == author:
                    self.revoked.update(value for value in values(event, "e") if value in batch)

    def _met(self, author: str, name: str) -> dict[int, Event]:
        return self.met.setdefault((author, name), {})

    def _remember(self, release: Event) -> None:
        met, version = self._met(release["pubkey"], once(release, "name", NAME)), version_of(release)
        if version not in met or met[version]["id"] in self.revoked:
            met[version] = release

    def _check_version(self, release: Event, *, by_name: bool) -> None:
        met, version = self._met(release["pubkey"], once(release, "name", NAME)), version_of(release)
        standing = {number: other for number, other in met.items() if other["id"] not in self.revoked}
        same = standing.get(version, release)
        need(once(same, "x", HEX32) == once(release, "x", HEX32), "equivocation")
        need(not by_name or version >= max(standing, default=0), "rollback")

    def _manifest(self, release: Event) -> dict[str, Any]:
        ids = values(release, "e")

        def check(event: Event) -> None:
            checked(event, CHUNK)
            need(event["pubkey"] == release["pubkey"], "a part of the manifest by another key")

        found = self._by_ids(ids, check)
        if len(found) == len(set(ids)):
            raw = b"".join(chunk_bytes(found[part]) for part in ids)
        else:
            raw = self._get(once(release, "x", HEX32)) or b""
            need(0 < len(raw) <= MAX_MANIFEST, "a part of the manifest did not come")
        need(hashlib.sha256(raw).hexdigest() == once(release, "x", HEX32), "not the manifest of the release")
        return check_manifest(raw)

    def _chunks(self, manifest: dict[str, Any], *, weights_only: bool) -> dict[str, bytes]:
        """Return the chunks by SHA-256; copies by other keys replace missing events."""
        wanted = {
            event_id: (size, sha256)
            for file in manifest["files"]
            for segment, size, event_id, sha256 in places(file, manifest["chunk_size"])
            if not (weights_only and segment == "optimizer")
        }
        chunks = self._from_blobs(manifest)

        def keep(event: Event, size: int, sha256: str) -> None:
            data = chunk_bytes(checked(event, CHUNK, signed=False), size)
            need(hashlib.sha256(data).hexdigest() == sha256, "not the bytes that the manifest names")
            chunks[sha256] = data

        missing_ids = [event_id for event_id, (_, sha256) in wanted.items() if sha256 not in chunks]
        self._by_ids(missing_ids, lambda event: keep(event, *wanted[event["id"]]))
        for size, sha256 in wanted.values():
            if sha256 not in chunks:
                copies = {"kinds": [CHUNK], "#x": [sha256], "limit": 10}
                self._found(copies, lambda event, size=size, sha256=sha256: keep(event, size, sha256))  # type: ignore[misc]
        missing = sum(sha256 not in chunks for _, sha256 in wanted.values())
        need(not missing, f"{missing} of {len(wanted)} chunks did not come")
        return chunks

    def _from_blobs(self, manifest: dict[str, Any]) -> dict[str, bytes]:
        """Return the chunks that servers give, by SHA-256."""
        chunks: dict[str, bytes] = {}
        for file in manifest["files"]:
            start, spots = 0, []
            for _, size, _, sha256 in places(file, manifest["chunk_size"]):
                spots.append((start, size, sha256))
                start += size
            for name, offset in blobs(file, manifest.get("blob_size") or 0):
                data = self._get(name) or b""
                for start, size, sha256 in spots:
                    part = data[start - offset : start - offset + size] if start >= offset else b""
                    if hashlib.sha256(part).hexdigest() == sha256:
                        chunks[sha256] = part
        return chunks


def version_of(event: Event) -> int:
    return int(once(event, "version", DECIMAL, MAX_VERSION))

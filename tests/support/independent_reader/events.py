"""Events, releases, heads and chunks: the checks on each alone."""

import base64
import binascii
import hashlib
import json
import re
from typing import Any

from .refused import Refused, need
from .schnorr import signature_holds

CHUNK, RELEASE, HEAD, REVOCATION = 1064, 4181, 34_181, 5
MAX_CHUNK = 46_080
MAX_LEVELS = 64

HEX32, NAME, DECIMAL = "[0-9a-f]{64}", "[a-z0-9][a-z0-9._-]{0,63}", "[1-9][0-9]{0,15}"
ANY = "(?s).*"
MAX_VERSION = 2**31 - 1

Event = dict[str, Any]


def checked(event: Event, kind: int, *, signed: bool = True) -> Event:
    """Return the event if its fields, id and kind are valid, and its signature unless `signed` is False."""
    for name, length in (("id", 64), ("pubkey", 64), ("sig", 128)):
        need(is_text(event.get(name), f"[0-9a-f]{{{length}}}"), f"{name} is malformed")
    for name, maximum in (("created_at", 2**53 - 1), ("kind", 65_535)):
        need(is_number(event.get(name), 0, maximum), f"{name} is malformed")
    tags, content = event.get("tags"), event.get("content")
    need(isinstance(tags, list) and all(isinstance(tag, list) for tag in tags), "tags are malformed")
    need(isinstance(content, str) and all(isinstance(item, str) for tag in tags or [] for item in tag), "not text")
    need(event["kind"] == kind, f"kind {event['kind']}, not {kind}")
    digest = hashlib.sha256(serialised(event)).digest()
    need(digest.hex() == event["id"], "the id does not hold")
    if signed:
        holds = signature_holds(bytes.fromhex(event["pubkey"]), digest, bytes.fromhex(event["sig"]))
        need(holds, "the signature does not hold")
    return event


def serialised(event: Event) -> bytes:
    fields = [0, event["pubkey"], event["created_at"], event["kind"], event["tags"], event["content"]]
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise Refused("half of a surrogate pair") from None


def values(event: Event, name: str) -> list[str]:
    return [tag[1] for tag in event["tags"] if len(tag) > 1 and tag[0] == name]


def once(event: Event, name: str, pattern: str, maximum: int = 0) -> str:
    """Return the value of a tag that must occur exactly once; `maximum` limits a number."""
    found = values(event, name)
    need(len(found) == 1 and is_text(found[0], pattern), f"tag {name} is missing, twice or malformed")
    need(not maximum or int(found[0]) <= maximum, f"tag {name} is too large")
    return found[0]


def is_text(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_number(value: object, minimum: int, maximum: int) -> bool:
    return type(value) is int and minimum <= value <= maximum


def check_release(event: Event, now: int) -> None:
    checked(event, RELEASE)
    check_release_tags(event, now)


def check_release_tags(event: Event, now: int) -> None:
    need(event["created_at"] <= now + 900, "from the future")
    once(event, "v", "1")
    once(event, "name", NAME)
    once(event, "version", DECIMAL, MAX_VERSION)
    once(event, "format", "[A-Za-z0-9._-]{1,32}")
    once(event, "size", DECIMAL, 2**53)
    once(event, "x", HEX32)
    parts = values(event, "e")
    need(1 <= len(parts) <= 64 and all(is_text(part, HEX32) for part in parts), "tags e are malformed")
    card = strict_json(event["content"])
    need(isinstance(card, dict) and levels(card) <= MAX_LEVELS, "the card is no object, or too deep")


def levels(value: object) -> int:
    """Return the nesting depth of objects and lists; 0 for anything else."""
    stack, deepest = [(value, 0)], 0
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict | list):
            stack += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
            deepest = max(deepest, depth + 1)
    return deepest


def strict_json(text: str) -> object:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        found = json.loads(text, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()  # half of a surrogate pair has no UTF-8
    except (ValueError, RecursionError):
        raise Refused("not JSON") from None
    return found


def check_head(event: Event, now: int) -> None:
    checked(event, HEAD)
    check_head_tags(event, now)


def check_head_tags(event: Event, now: int) -> None:
    need(event["created_at"] <= now + 900, "from the future")
    once(event, "d", NAME)
    once(event, "version", DECIMAL, MAX_VERSION)
    for name in ("x", "e"):
        once(event, name, HEX32)


def check_revocation(event: Event, now: int) -> None:
    checked(event, REVOCATION)
    need(event["created_at"] <= now + 900, "from the future")


def chunk_bytes(event: Event, size: int | None = None) -> bytes:
    """Decode a chunk's content; check its `size` if it is known."""
    content = event["content"]
    need(len(content) <= 4 * MAX_CHUNK // 3, "a chunk is too large")
    need(size is None or len(content) == 4 * -(-size // 3), "a chunk has another length")
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("a chunk is not base64") from None
    need(size is None or len(data) == size, "a chunk has another length")
    return data

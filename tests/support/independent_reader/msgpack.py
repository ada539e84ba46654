"""Decoding msgpack, without the types that a manifest does not use."""

import struct
from typing import Any

from .refused import Refused, need

MAX_DEPTH = 16

_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_FORMS = {  # first byte -> what it begins, and the number after it
    **dict(zip(range(0xC4, 0xC7), (("bin", code) for code in "BHI"), strict=True)),
    **dict(zip(range(0xCA, 0xD4), (("number", code) for code in "fdBHIQbhiq"), strict=True)),
    **dict(zip(range(0xD9, 0xDC), (("str", code) for code in "BHI"), strict=True)),
    **dict(zip(range(0xDC, 0xDE), (("array", code) for code in "HI"), strict=True)),
    **dict(zip(range(0xDE, 0xE0), (("map", code) for code in "HI"), strict=True)),
}


def unpack(raw: bytes) -> Any:  # noqa: ANN401 (whatever is packed)
    """Decode exactly one value."""
    cursor = _Cursor(raw)
    found = cursor.value(0)
    need(cursor.at == len(raw), "bytes after the value")
    return found


class _Cursor:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def _take(self, count: int) -> bytes:
        self.at += count
        need(self.at <= len(self._raw), "it ends early")
        return self._raw[self.at - count : self.at]

    def value(self, depth: int) -> Any:  # noqa: ANN401
        need(depth < MAX_DEPTH, "too deep")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first < 0xC0:
            form = "map" if first < 0x90 else "array" if first < 0xA0 else "str"
            count = first & (0x1F if form == "str" else 0x0F)
        else:
            need(first in _FORMS, "a form that the manifest does not use")
            form, code = _FORMS[first]
            count = struct.unpack(">" + code, self._take(struct.calcsize(code)))[0]
        return self._build(form, count, depth)

    def _build(self, form: str, count: int, depth: int) -> Any:  # noqa: ANN401
        match form:
            case "number":
                return count
            case "bin":
                return self._take(count)
            case "str":
                try:
                    return self._take(count).decode()
                except UnicodeDecodeError:
                    raise Refused("not UTF-8") from None
            case "array":
                return [self.value(depth + 1) for _ in range(count)]
        found = {}
        for _ in range(count):
            key = self.value(depth + 1)
            need(isinstance(key, str), "a key is not text")
            found[key] = self.value(depth + 1)
        return found

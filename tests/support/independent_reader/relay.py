"""Queries to one relay."""

import base64
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from .events import Event
from .refused import need

MAX_FRAME = 256 << 10


class Relay:
    """A WebSocket (RFC 6455) to one relay, unencrypted."""

    def __init__(self, url: str, deadline_s: float = 30) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), deadline_s)
        self._file = self._socket.makefile("rb")
        self._requests = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        need(b" 101 " in self._file.readline(1000), "no WebSocket there")
        while self._file.readline(1000).strip():
            pass

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def ask(self, wanted: dict[str, Any]) -> Iterator[Event]:
        """Yield the stored events of a filter as the relay sends them."""
        self._requests += 1
        name = f"r{self._requests}"
        self._send(1, json.dumps(["REQ", name, wanted]).encode())
        while True:
            match json.loads(self._message()):
                case ["EVENT", str(request), dict(event)] if request == name:
                    yield event
                case ["EOSE", str(request), *_] if request == name:
                    self._send(1, json.dumps(["CLOSE", name]).encode())
                    return
                case ["CLOSED", str(request), *_] if request == name:
                    return

    def _send(self, kind: int, data: bytes) -> None:
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        mask = os.urandom(4)
        self._socket.sendall(
            bytes([0x80 | kind]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        )

    def _message(self) -> bytes:
        parts = b""
        while True:
            first, length = self._read(2)
            if length >= 126:
                length = int.from_bytes(self._read(2 if length == 126 else 8), "big")
            need(len(parts) + length <= MAX_FRAME, "a frame is too large")
            data = self._read(length)
            if first & 0x0F == 9:  # a ping
                self._send(10, data)
            elif first & 0x0F in {0, 1}:
                parts += data
                if first & 0x80:
                    return parts
            else:
                need(first & 0x0F == 10, "the relay ends the conversation")

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        need(len(data) == count, "the relay is gone")
        return data

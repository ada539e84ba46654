"""Built-in Blossom server (BUD-01, 02, 04, 06, 11, 12), over aiohttp. Does network and disk I/O."""

import asyncio
import contextlib
import logging
import mimetypes
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import StreamReader, web

from relay_client.blossom.address import host_of
from relay_client.blossom.blob_http import (
    ALWAYS,
    PREFLIGHT,
    BlobResponse,
    Refused,
    drop_other_expectations,
    hash_header,
    int_header,
    keep_waiting,
    limit_connections,
    media_type_of,
    origin_of,
    parse_number,
    read_small,
    receive,
    refusal,
    transfer_s,
)
from relay_client.blossom.blob_limits import BlobLimits
from relay_client.blossom.blob_store import BlobStore, StoredBlob, StoreFull
from relay_client.blossom.descriptor import BlobDescriptor
from relay_client.blossom.mirror import MAX_REQUEST, MirrorSource
from relay_client.blossom.token import Token, Verb
from relay_client.errors import CallerError, InvalidResponse, InvalidToken, StorageError, TransportError
from relay_client.hexadecimal import parse_hex

HOST = "127.0.0.1"

_DIGEST = 32  # bytes
_LINGER_S = 5.0  # to read what a refused client still sends
_MAX_HEADER = 65_536  # bytes; a token may name hundreds of blobs
_MAX_LIST = 1_000
_BUSY_S = 2  # seconds after which a client may try again


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)


class LocalBlobServer:
    """A Blossom server of this machine; an async context manager. `origin` is its address.

    Uploads and deletions need a token (BUD-11); reading is for everyone. Entering raises CallerError if the port or the
    folder cannot be used.

    Args:
        folder: Where to keep blobs.
        port: Port to listen on; 0 for any free port.
        host: IP address to listen on.
        url: Origin at which clients reach the server, if a proxy is in front of it; tokens may name its host.
        limits: Sizes and types to accept.
        may_upload: Whether a public key may upload; asked for each upload. All may if None.
        mirror_private: Mirror from private and `http` addresses too. Those who may upload can then reach this network.
    """

    def __init__(
        self,
        *,
        folder: Path,
        port: int = 0,
        host: str = HOST,
        url: str = "",
        limits: BlobLimits | None = None,
        may_upload: Callable[[bytes], bool] | None = None,
        mirror_private: bool = False,
    ) -> None:
        self.origin = url
        self._only_public = not mirror_private
        self._address = (host, port)
        self._url = url
        self._limits = limits or BlobLimits()
        self._store = BlobStore(folder, self._limits)
        self._may_upload = may_upload or (lambda _pubkey: True)
        self._uploads = 0
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._store.__enter__()
        app = web.Application(middlewares=[self._respond])
        blob = r"/{sha256:[0-9a-fA-F]{64}}{extension:(\.[^/]*)?}"
        app.add_routes(
            [
                web.get(blob, self._get),  # HEAD too
                web.delete(blob, self._delete),
                web.put("/upload", self._upload, expect_handler=keep_waiting),
                web.head("/upload", self._check_upload),
                web.put("/mirror", self._mirror),
                web.get("/list/{pubkey:[0-9a-f]{64}}", self._list),
            ]
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            max_field_size=_MAX_HEADER,
            max_line_size=_MAX_HEADER,
            lingering_time=_LINGER_S,
            keepalive_timeout=self._limits.headers_s,
        )
        host, port = self._address
        try:
            await self._listen(self._runner, host, port)
        except OSError as error:
            await self.__aexit__(None, None, None)
            raise CallerError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def _listen(self, runner: web.AppRunner, host: str, port: int) -> None:
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("the runner was not set up")
        runner.server.request_factory = drop_other_expectations(runner.server.request_factory)
        connect = limit_connections(runner.server, self._limits.max_connections)
        self._listening = await asyncio.get_running_loop().create_server(connect, host, port)
        self.origin = self._url or origin_of(*self._listening.sockets[0].getsockname()[:2])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening:
            self._listening.close()
        if self._runner:
            await self._runner.cleanup()
        self._store.__exit__(None, None, None)

    # --- requests

    async def _get(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD /<sha256> (BUD-01); aiohttp serves ranges."""
        blob = self._store.find(bytes.fromhex(request.match_info["sha256"]))
        if blob is None:
            raise Refused(404, "no such blob")
        return BlobResponse(self._store.path(blob.sha256), blob)

    async def _check_upload(self, request: web.Request) -> web.Response:
        """HEAD /upload (BUD-06): whether a blob would be accepted. A token is checked if there is one."""
        sha256 = hash_header(request)
        if "Authorization" in request.headers:
            self._authorize(request, Verb.UPLOAD, sha256)
        self._check_blob(int_header(request, "X-Content-Length"), request.headers.get("X-Content-Type", ""))
        with self._upload_slot():
            return web.Response()

    async def _upload(self, request: web.Request) -> web.Response:
        """PUT /upload (BUD-02)."""
        sha256 = hash_header(request)
        token = self._authorize(request, Verb.UPLOAD, sha256)
        size, media_type = int_header(request, "Content-Length"), media_type_of(request.headers.get("Content-Type", ""))
        if sha256 and (known := await self._add_owner(sha256, token.pubkey)):
            return self._describe(request, known, 200)
        self._check_blob(size, media_type)

        def check(digest: bytes) -> None:
            if sha256 not in {None, digest}:
                raise Refused(409, "the blob does not have the hash in X-SHA-256")
            self._check_token(request, token, Verb.UPLOAD, digest)

        with self._upload_slot():
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            stored, status = await self._receive(request.content, size, media_type, token.pubkey, check)
        return self._describe(request, stored, status)

    async def _mirror(self, request: web.Request) -> web.Response:
        """PUT /mirror (BUD-04): an upload whose bytes come from another server."""
        token = self._authorize(request, Verb.UPLOAD, None)
        try:
            source = MirrorSource.parse(await read_small(request, MAX_REQUEST), only_public=self._only_public)
        except InvalidResponse as error:
            raise Refused(400, str(error)) from None
        self._check_token(request, token, Verb.UPLOAD, source.sha256)
        if known := await self._add_owner(source.sha256, token.pubkey):
            return self._describe(request, known, 200)

        def check(digest: bytes) -> None:
            if digest != source.sha256:
                raise Refused(409, f"{source.origin} sends other bytes than the hash names")

        try:
            with self._upload_slot():  # from before the first byte: the source may take its time
                async with source.open(only_public=self._only_public) as response:
                    size = response.content_length or 0
                    media_type = media_type_of(response.headers.get("Content-Type", ""))
                    self._check_blob(size, media_type)
                    stored, status = await self._receive(response.content, size, media_type, token.pubkey, check)
        except (TimeoutError, aiohttp.ClientError):
            raise Refused(502, f"{source.origin} breaks off, or is too slow") from None
        except (TransportError, InvalidResponse) as error:
            raise Refused(502, str(error)) from None
        return self._describe(request, stored, status)

    async def _receive(
        self, content: StreamReader, size: int, media_type: str, owner: bytes, check: Callable[[bytes], None]
    ) -> tuple[StoredBlob, int]:
        """Receive and store a blob whose hash passes `check`; return it, and 201 if it is new, else 200."""
        with await asyncio.to_thread(self._store.receive, size) as incoming:
            async with asyncio.timeout(transfer_s(size)):
                await receive(content, incoming)
            check(incoming.digest())
            known = self._store.find(incoming.digest())
            now = int(time.time())
            stored = await asyncio.to_thread(incoming.keep, media_type=media_type, owner=owner, now=now)
            return stored, 200 if known else 201

    async def _delete(self, request: web.Request) -> web.Response:
        """DELETE /<sha256> (BUD-12): removes the ownership, and the blob with its last owner."""
        sha256 = bytes.fromhex(request.match_info["sha256"])
        token = self._authorize(request, Verb.DELETE, sha256)
        if self._store.find(sha256) is None:
            raise Refused(404, "no such blob")
        if not await asyncio.to_thread(self._store.remove_owner, sha256, token.pubkey):
            raise Refused(403, "this key did not upload the blob")
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        """GET /list/<pubkey> (BUD-12): what a key uploaded, the newest first."""
        owner = bytes.fromhex(request.match_info["pubkey"])
        if "Authorization" in request.headers:
            self._authorize(request, Verb.LIST, None)
        blobs = self._store.of_owner(owner)
        if cursor := parse_hex(request.query.get("cursor"), _DIGEST):
            hashes = [blob.sha256 for blob in blobs]
            blobs = blobs[hashes.index(cursor) + 1 :] if cursor in hashes else []
        wanted = parse_number(request.query.get("limit", ""))
        limit = _MAX_LIST if wanted is None else min(wanted, _MAX_LIST)
        return web.json_response([self._descriptor(request, blob).to_dict() for blob in blobs[:limit]])

    # --- checks

    def _authorize(self, request: web.Request, verb: Verb, sha256: bytes | None) -> Token:
        """Return the token of a request that may upload or delete; raises Refused."""
        if "Authorization" not in request.headers:
            raise Refused(401, "a token is required (Authorization: Nostr …)")
        try:
            token = Token.parse(request.headers["Authorization"], now=int(time.time()))
        except InvalidToken as error:
            raise Refused(401, str(error)) from None
        self._check_token(request, token, verb, sha256)
        if verb is Verb.UPLOAD and not self._may_upload(token.pubkey):
            raise Refused(403, "this key may not upload here")
        return token

    def _check_token(self, request: web.Request, token: Token, verb: Verb, sha256: bytes | None) -> None:
        names = self._names(request)
        name = next((each for each in names if each in token.hosts), names[0])
        try:
            token.check(verb, host=name, sha256=sha256)
        except InvalidToken as error:
            raise Refused(401, str(error)) from None

    def _names(self, request: web.Request) -> list[str]:
        """Return the names of this server, as tokens have them. `Host` is the client's word, and does not count."""
        if self._url:
            return [host_of(self._url)]
        local = request.transport.get_extra_info("sockname") if request.transport else None
        address = str(local[0]) if local else self._address[0]
        own = host_of(origin_of(address.removeprefix("::ffff:"), 80))
        return [own, "localhost"] if own in {HOST, "[::1]"} else [own]

    def _check_blob(self, size: int, media_type: str) -> None:
        if size > self._limits.max_blob_size:
            raise Refused(413, f"the blob has {size:,} bytes; the limit is {self._limits.max_blob_size:,}")
        if self._limits.types and media_type_of(media_type) not in self._limits.types:
            raise Refused(415, f"only {', '.join(sorted(self._limits.types))}")
        self._store.check_room(size)

    @contextlib.contextmanager
    def _upload_slot(self) -> Iterator[None]:
        """Count an upload while it runs; raises Refused if too many run."""
        if self._uploads >= self._limits.max_uploads:
            raise Refused(503, "too many uploads at once", **{"Retry-After": str(_BUSY_S)})
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    # --- answers

    async def _add_owner(self, sha256: bytes, owner: bytes) -> StoredBlob | None:
        return await asyncio.to_thread(self._store.add_owner, sha256, owner, int(time.time()))

    def _describe(self, request: web.Request, blob: StoredBlob, status: int) -> web.Response:
        return web.json_response(self._descriptor(request, blob).to_dict(), status=status)

    def _descriptor(self, request: web.Request, blob: StoredBlob) -> BlobDescriptor:
        extension = mimetypes.guess_extension(blob.type) or ".bin"
        url = f"{self._url or f'http://{request.host}'}/{blob.sha256.hex()}{extension}"
        return BlobDescriptor(url=url, sha256=blob.sha256, size=blob.size, type=blob.type, uploaded=blob.uploaded)

    @web.middleware
    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Add the headers of every response, and word refusals and errors."""
        try:
            is_preflight = request.method == "OPTIONS"
            response = web.Response(status=204, headers=PREFLIGHT) if is_preflight else await handler(request)
        except web.HTTPException as error:  # no such route
            response = refusal(error.status, error.reason)
        except Refused as refused:
            response = refusal(refused.status, str(refused), refused.headers)
        except StoreFull as error:
            response = refusal(507, str(error))
        except TimeoutError:
            response = refusal(408, "no bytes for too long")
        except ConnectionError:
            response = refusal(400, "the client broke off")  # it does not get that
        except (OSError, sqlite3.Error, StorageError):
            log.exception("cannot read or write on this disk")
            response = refusal(507, "the server's disk fails or is full")
        response.headers.update(ALWAYS)
        return response

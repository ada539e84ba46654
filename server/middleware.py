"""What happens around every request: an id, who may ask, errors as JSON, the log and the counts. Does network I/O."""

import asyncio
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import orjson
from aiohttp import web

from server.auth import find_key, is_host_served, is_origin_welcome
from server.config import ServerConfig
from server.errors import Busy, InvalidRequest
from server.metrics import Metrics
from server.replies import error_reply, openai_error

RETRY_AFTER_S = 1
NOT_MODIFIED = 304
REQUEST_ID = web.RequestKey("request_id", str)
STREAM = web.RequestKey("stream", web.StreamResponse)  # where a reply has begun
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """The middleware of a server."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._busy: Counter[int] = Counter()  # requests under way, by key

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, whatever happens."""
        began, given = time.perf_counter(), request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = given if _ID.fullmatch(given) else uuid.uuid4().hex
        status = 499  # the client went away
        try:
            response = await self._answer(request, handler)
            if await self._send(request, response):
                status = response.status
        except ConnectionError:  # likewise
            return request.get(STREAM) or web.Response(status=status)
        finally:
            route = request.match_info.route.resource
            path = route.canonical if route else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            facts = {"request_id": request[REQUEST_ID], "method": request.method, "path": path, "status": status}
            level = logging.DEBUG if status == NOT_MODIFIED else logging.INFO  # an open page asks again and again
            log.log(level, "request", extra=facts | {"ms": round((time.perf_counter() - began) * 1e3, 1)})
        return response

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Headers of every response."""
        response.headers["Server"] = "randygpt"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
        origin = request.headers.get("Origin")
        if origin and (origin in self._config.origins or "*" in self._config.origins):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "X-Release, X-Request-Id, Retry-After"
            response.headers["Vary"] = "Origin"

    @contextmanager
    def admit(self, request: web.Request) -> Iterator[None]:
        """Let a request with a right key in, and count it; raises HTTPUnauthorized and HTTPTooManyRequests."""
        key = find_key(self._config.api_keys, request.headers.get("Authorization"))
        if key is None:
            raise web.HTTPUnauthorized(text="a valid API key is required", headers={"WWW-Authenticate": "Bearer"})
        if self._config.api_keys and self._busy[key] >= self._config.limits.max_per_key:
            raise web.HTTPTooManyRequests(
                text=f"{self._busy[key]} requests with this key are under way already",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._busy[key] += 1
        try:
            yield
        finally:
            self._busy[key] -= 1

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            async with asyncio.timeout(self._config.limits.request_timeout_s):
                return await (_preflight(request) if _is_preflight(request) else handler(request))
        except TimeoutError:
            return self._late(request)
        except InvalidRequest as error:
            return error_response(request, 400, str(error), field=error.field)
        except Busy as error:
            return error_response(request, 503, str(error), {"Retry-After": str(RETRY_AFTER_S)})
        except web.HTTPException as error:
            kept = {"Allow", "Connection", "Retry-After", "WWW-Authenticate"}
            headers = {name: value for name, value in error.headers.items() if name in kept}
            message = (error.text or error.reason).removeprefix(f"{error.status}: ")
            return error_response(request, error.status, message, headers)
        except ConnectionError:
            raise
        except Exception:
            log.exception("a request failed", extra={"request_id": request[REQUEST_ID]})
            return error_response(request, 500, "the server failed; its log says why")

    async def _send(self, request: web.Request, response: web.StreamResponse) -> bool:
        """Send what is left of an answer; whether the client took it in time."""
        try:
            async with asyncio.timeout(self._config.limits.write_timeout_s):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            _abort(request)
            return False
        return True

    def _late(self, request: web.Request) -> web.StreamResponse:
        if STREAM not in request:
            words = f"the answer was not complete in {self._config.limits.request_timeout_s:.0f} s"
            return error_response(request, 503, words, {"Retry-After": str(RETRY_AFTER_S)})
        _abort(request)  # so that nobody takes what has come for all of it
        return request[STREAM]

    def _check(self, request: web.Request) -> None:
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if not is_host_served(self._config.hosts, host):
            raise web.HTTPForbidden(text="this server does not go by that name; --allow-host adds one")
        if not is_origin_welcome(self._config.origins, origin, host):
            raise web.HTTPForbidden(text="pages of that origin may not ask; --allow-origin adds one")


def json_response(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    """A response with a body in JSON."""
    data = orjson.dumps(body)
    return web.Response(status=status, body=data, headers=headers, content_type="application/json", charset="utf-8")


def error_response(
    request: web.Request, status: int, message: str, headers: dict[str, str] | None = None, *, field: str | None = None
) -> web.Response:
    """An error, under /v1 in OpenAI's form."""
    is_openai = request.path.startswith("/v1/")
    body = openai_error(message, status=status, field=field) if is_openai else error_reply(message)
    return json_response(status, body, headers)


def _abort(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()


def _is_preflight(request: web.Request) -> bool:
    """Whether a browser asks if a page of another origin may."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


async def _preflight(_: web.Request) -> web.StreamResponse:
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-Id",
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=allowed)

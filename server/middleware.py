"""Middleware around every request: id, authorization, CORS, errors as JSON, log line, metrics. Does network I/O."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from server.auth import find_key, is_host_allowed, is_origin_allowed
from server.config import ServerConfig
from server.errors import Busy, InvalidRequest, KeyLimitReached
from server.metrics import Metrics
from server.request_factory import check_expectation
from server.responses import error_body, openai_error_body

PUBLIC_ROUTES = frozenset({"/", "/page.css", "/page.js", "/model.js", "/openapi.json", "/health", "/ready", "/metrics"})
RETRY_AFTER_S = 1
CLIENT_CLOSED_REQUEST = 499
NOT_MODIFIED = 304
API_KEY = web.RequestKey("api_key", int)  # index of the key that was sent
REQUEST_ID = web.RequestKey("request_id", str)
STREAM = web.RequestKey("stream", web.StreamResponse)  # a response whose headers were sent by the handler
_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_USUAL_HEADERS = "Authorization, Content-Type, X-Request-Id"
_HEADER_NAMES = re.compile(r"(?=.{1,2000}\Z)[A-Za-z0-9_-]+(?:, ?[A-Za-z0-9_-]+)*")
_KEPT_HEADERS = {"Allow", "Connection", "Retry-After", "WWW-Authenticate"}

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Middleware:
    """Authorizes, limits, logs and counts every request.

    Every route needs an API key where the server has any, except to GET one of PUBLIC_ROUTES.
    """

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, turning every error into a response; then log and count it."""
        began, client_id = time.perf_counter(), request.headers.get("X-Request-Id", "")
        request[REQUEST_ID] = client_id if _CLIENT_ID.fullmatch(client_id) else uuid.uuid4().hex
        status = CLIENT_CLOSED_REQUEST
        try:
            response = await self._respond(request, handler)
            if await self._send(request, response):
                status = response.status
        except ConnectionError:  # the client disconnected
            return request.get(STREAM) or web.Response(status=status)
        finally:
            path = _route(request) or "other"
            self._metrics.requests.labels(path, str(status)).inc()
            facts = {"request_id": request[REQUEST_ID], "method": request.method, "path": path, "status": status}
            level = logging.DEBUG if status == NOT_MODIFIED else logging.INFO  # an open page polls
            log.log(level, "request", extra=facts | {"ms": round((time.perf_counter() - began) * 1e3, 1)})
        return response

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers that every response has (a signal handler of aiohttp)."""
        response.headers["Server"] = "randygpt"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
        origin = request.headers.get("Origin")
        if origin and (origin in self._config.origins or "*" in self._config.origins):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "X-Release, X-Request-Id, Retry-After"
            response.headers["Vary"] = "Origin"

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Call the handler if the request is allowed; return any error as a response."""
        try:
            self._check_headers(request)
            if _is_preflight(request):
                return _preflight_response(request)
            self._authorize(request)
            async with asyncio.timeout(self._config.limits.request_timeout_s):
                return await handler(request)
        except TimeoutError:
            return self._timeout_response(request)
        except (InvalidRequest, Busy, KeyLimitReached, web.HTTPException) as error:
            return _expected_error(request, error)
        except ConnectionError:
            raise
        except Exception:
            log.exception("request failed", extra={"request_id": request[REQUEST_ID]})
            return error_response(request, 500, "internal error; see the server's log")

    def _check_headers(self, request: web.Request) -> None:
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if not is_host_allowed(self._config.hosts, host):
            raise web.HTTPForbidden(text="the Host header is not a name of this server; --allow-host adds one")
        if not is_origin_allowed(self._config.origins, origin, host):
            raise web.HTTPForbidden(text="pages of this origin may not send requests; --allow-origin allows one")
        check_expectation(request)

    def _authorize(self, request: web.Request) -> None:
        """Note the key of a request that needs one; raises HTTPUnauthorized."""
        if not self._config.api_keys or _is_public(request):
            return
        key = find_key(self._config.api_keys, request.headers.get("Authorization"))
        if key is None:
            raise web.HTTPUnauthorized(text="a valid API key is required", headers={"WWW-Authenticate": "Bearer"})
        request[API_KEY] = key

    async def _send(self, request: web.Request, response: web.StreamResponse) -> bool:
        """Send the rest of a response; return False if the client did not read it in time."""
        try:
            async with asyncio.timeout(self._config.limits.write_timeout_s):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            _abort(request)
            return False
        return True

    def _timeout_response(self, request: web.Request) -> web.StreamResponse:
        if STREAM in request:
            _abort(request)  # so that the client cannot take the part it has for the whole
            return request[STREAM]
        message = f"the response was not complete after {self._config.limits.request_timeout_s:g} s"
        return error_response(request, 503, message, {"Retry-After": str(RETRY_AFTER_S)})


def json_response(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    """Return a response with a JSON body."""
    data = orjson.dumps(body)
    return web.Response(status=status, body=data, headers=headers, content_type="application/json", charset="utf-8")


def error_response(
    request: web.Request, status: int, message: str, headers: dict[str, str] | None = None, *, field: str | None = None
) -> web.Response:
    """Return an error response; below /v1 in OpenAI's format."""
    is_openai = request.path.startswith("/v1/")
    body = openai_error_body(message, status=status, field=field) if is_openai else error_body(message)
    return json_response(status, body, headers)


def _expected_error(
    request: web.Request, error: InvalidRequest | Busy | KeyLimitReached | web.HTTPException
) -> web.Response:
    match error:
        case InvalidRequest():
            return error_response(request, 400, str(error), field=error.field)
        case KeyLimitReached():
            return error_response(request, 429, str(error), {"Retry-After": str(RETRY_AFTER_S)})
        case Busy():
            return error_response(request, 503, str(error), {"Retry-After": str(RETRY_AFTER_S)})
        case _:
            headers = {name: value for name, value in error.headers.items() if name in _KEPT_HEADERS}
            message = (error.text or error.reason).removeprefix(f"{error.status}: ")
            return error_response(request, error.status, message, headers)


def _route(request: web.Request) -> str | None:
    """Return the path of the matching route, with its variables by name; None if no route matches."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else None


def _is_public(request: web.Request) -> bool:
    """Return True if a request needs no key: a public route, or no route at all (404 and 405)."""
    if request.match_info.http_exception is not None:
        return True
    return request.method in {"GET", "HEAD"} and _route(request) in PUBLIC_ROUTES


def _abort(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()


def _is_preflight(request: web.Request) -> bool:
    """Return True if a browser asks whether a page of another origin may send a request (CORS)."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _preflight_response(request: web.Request) -> web.Response:
    """Allow a page whose origin was accepted to send what it asks to: no header gives it more rights than others."""
    raw_names = request.headers.get("Access-Control-Request-Headers", "")
    headers = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": raw_names if _HEADER_NAMES.fullmatch(raw_names) else _USUAL_HEADERS,
        "Access-Control-Max-Age": "600",
    }
    return web.Response(status=204, headers=headers)

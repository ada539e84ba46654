"""The HTTP edge: routes, errors as JSON, start and stop. Does network I/O."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
from aiohttp import web

from server.auth import is_authorised
from server.engine import Engine
from server.errors import Busy, CannotListen, InvalidRequest
from server.models import Serving
from server.reloader import Reloader
from server.schema import MAX_BODY, completion_reply, error_reply, parse_request

BODY_S = 10.0  # for a request's body to arrive
DRAIN_S = 30.0  # for requests under way to finish when the server stops
RETRY_AFTER_S = 1

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Application:
    """Routes over one `Serving` and one `Engine`."""

    def __init__(self, serving: Serving, engine: Engine, *, api_key: str | None) -> None:
        self._serving = serving
        self._engine = engine
        self._api_key = api_key
        self.web = web.Application(client_max_size=MAX_BODY, middlewares=[_errors_as_json])
        self.web.add_routes([web.post("/", self._complete), web.get("/health", self._health)])

    async def _complete(self, request: web.Request) -> web.Response:
        if not is_authorised(self._api_key, request.headers.get("Authorization")):
            return _error(401, "a valid API key is required", {"WWW-Authenticate": "Bearer"})
        asked = parse_request(await _read_body(request))
        with self._serving.lease() as loaded:  # this request's model, whatever happens to `current` meanwhile
            if loaded is None:
                return _error(503, "no model to answer with yet", {"Retry-After": str(RETRY_AFTER_S)})
            tokenizer = loaded.language_model.tokenizer
            prompt = tokenizer.encode(asked.prompt).tolist()
            tokens, _ = await self._engine.complete(loaded, prompt, asked.sampling)
            reply = completion_reply(
                text=tokenizer.decode([token.id for token in tokens]),
                model=loaded.language_model.config.name,
                prompt_tokens=len(prompt),
                completion_tokens=len(tokens),
            )
            return _json(200, reply, {"X-Release": loaded.release_id} if loaded.release_id else {})

    async def _health(self, _: web.Request) -> web.Response:
        loaded = self._serving.current
        return _json(
            200,
            {
                "status": "ok" if loaded else "waiting for a first model",
                "model": loaded.language_model.config.name if loaded else None,
                "serving": loaded.label if loaded else None,
                "release": loaded.release_id if loaded else None,
                "failure": self._serving.failure,
            },
        )


@contextlib.asynccontextmanager
async def running(
    serving: Serving, reloader: Reloader | None, *, host: str, port: int, threads: int, api_key: str | None
) -> AsyncIterator[str]:
    """A server that answers; gives its address. On leaving, it takes no more requests and finishes those under way.

    Raises CannotListen if the address cannot be had.
    """
    engine = Engine(threads=threads)
    application = Application(serving, engine, api_key=api_key)
    runner = web.AppRunner(
        application.web, access_log=None, handler_cancellation=True, shutdown_timeout=DRAIN_S, keepalive_timeout=15
    )
    await runner.setup()
    watch = None
    try:
        if reloader:
            await reloader.look()
            watch = asyncio.create_task(reloader.run(), name="reloader")
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as error:
            raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        bound_host, bound_port, *_ = runner.addresses[0]
        yield f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
    finally:
        if watch:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        await runner.cleanup()
        engine.close()


async def _read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive in {BODY_S:.0f} s") from None


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidRequest as error:
        return _error(400, str(error))
    except Busy as error:
        return _error(503, str(error), {"Retry-After": str(RETRY_AFTER_S)})
    except web.HTTPException as error:
        kept = {name: value for name, value in error.headers.items() if name in {"Allow", "Connection"}}
        return _error(error.status, (error.text or error.reason).removeprefix(f"{error.status}: "), kept)
    except Exception:
        log.exception("a request failed")
        return _error(500, "the server failed; its log says why")


def _json(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body), headers=headers, content_type="application/json", charset="utf-8"
    )


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json(status, error_reply(message), headers)

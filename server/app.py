"""The HTTP edge: routes, start and stop. Does network I/O."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeAlias

import orjson
from aiohttp import web

from server.completion import Completion
from server.config import ServerConfig
from server.engine import Engine
from server.errors import Busy, InvalidRequest, UnfitModel
from server.fields import parse_object
from server.listen import listen
from server.metrics import CONTENT_TYPE, Metrics, Snapshot
from server.middleware import REQUEST_ID, RETRY_AFTER_S, STREAM, Guard, error_response, json_response
from server.models import ActiveModel, LoadedModel
from server.openapi import document
from server.page import Page
from server.provenance import Provenance
from server.reloader import Reloader
from server.replies import Form, completion_reply, models_reply, openai_error, usage
from server.schema import MAX_BODY, CompletionRequest, parse_chat, parse_completion, parse_request

Watchdog: TypeAlias = Callable[[Callable[[], Awaitable[None]]], contextlib.AbstractAsyncContextManager[None]]

log = logging.getLogger(__name__)


class Application:
    """Routes over one `ActiveModel` and one `Engine`."""

    def __init__(
        self,
        active: ActiveModel,
        reloader: Reloader | None,
        provenance: Provenance | None,
        engine: Engine,
        config: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self._active = active
        self._reloader = reloader
        self._engine = engine
        self._config = config
        self._metrics = metrics
        self._guard = Guard(config, metrics)
        self._page = Page(active, provenance)
        self.web = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard.around])
        self.web.on_response_prepare.append(self._guard.prepare)
        self.web.add_routes(
            [
                *self._page.routes(),
                web.get("/provenance", self._provenance),
                web.post("/", self._complete),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{model}", self._models),
                web.get("/openapi.json", self._openapi),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                web.get("/metrics", self._page_of_metrics),
                web.post("/admin/reload", self._reload),
                web.post("/admin/use", self._use),
            ]
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        with self._guard.admit(request):
            asked = parse_request(await self._body(request))
            with self._active.lease() as loaded:  # this request's model, whatever happens to `current` meanwhile
                with Completion(self._engine, _there(loaded), asked) as completion:
                    self._metrics.prompt_tokens.inc(completion.prompt_tokens)
                    [choice] = await completion.collect()
                reply = completion_reply(
                    text=choice.text,
                    model=completion.model.name,
                    prompt_tokens=completion.prompt_tokens,
                    completion_tokens=completion.completion_tokens,
                )
                return json_response(200, reply, _release(completion.model))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._openai(request, parse_completion, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._openai(request, parse_chat, chat=True)

    async def _openai(
        self, request: web.Request, parse: Callable[[bytes], CompletionRequest], *, chat: bool
    ) -> web.StreamResponse:
        with self._guard.admit(request):
            asked = parse(await self._body(request))
            with self._active.lease() as loaded, Completion(self._engine, _there(loaded), asked) as completion:
                self._metrics.prompt_tokens.inc(completion.prompt_tokens)
                form = Form(
                    chat=chat,
                    request_id=request[REQUEST_ID],
                    created=int(time.time()),
                    model=completion.model.name,
                    fingerprint=completion.model.fingerprint,
                    texts=completion.model.language_model.tokenizer.vocab,
                    logprobs=asked.logprobs is not None,
                )
                if asked.stream:
                    return await self._stream(request, completion, form, include_usage=asked.include_usage)
                choices = await completion.collect()
                counts = usage(completion.prompt_tokens, completion.completion_tokens)
                return json_response(200, form.whole(choices, counts), _release(completion.model))

    async def _stream(
        self, request: web.Request, completion: Completion, form: Form, *, include_usage: bool
    ) -> web.StreamResponse:
        """Parts of an answer as they come, each an event; `[DONE]` is the last. Ends early if nobody reads them."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers | _release(completion.model))
        request[STREAM] = response
        await response.prepare(request)
        seen: set[int] = set()
        try:
            async for news in completion:
                for choice in news:
                    part = form.part([choice], first=choice.index not in seen)
                    seen.add(choice.index)
                    await self._send(response, orjson.dumps(part))
            if include_usage:
                counts = usage(completion.prompt_tokens, completion.completion_tokens)
                await self._send(response, orjson.dumps(form.last(counts)))
        except (TimeoutError, ConnectionError):
            raise
        except Exception as error:  # the status was sent: only words are left
            if not isinstance(error, Busy):
                log.exception("a stream failed", extra={"request_id": request[REQUEST_ID]})
            why = str(error) if isinstance(error, Busy) else "the server failed; its log says why"
            await self._send(response, orjson.dumps(openai_error(f"the text ends early: {why}", status=500)))
        await self._send(response, b"[DONE]")
        return response

    async def _send(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._config.limits.write_timeout_s):
            await response.write(b"data: %b\n\n" % data)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        with self._guard.admit(request):
            loaded = self._active.current
            reply = models_reply({loaded.name: int(loaded.loaded_at)} if loaded else {})
            name = request.match_info.get("model")
            if name is None:
                return json_response(200, reply)
            if loaded is None or name != loaded.name:
                return error_response(request, 404, f"no model {name!r}", field="model")
            return json_response(200, reply["data"][0])

    async def _provenance(self, request: web.Request) -> web.StreamResponse:
        with self._guard.admit(request):
            return await self._page.provenance(request)

    async def _openapi(self, _: web.Request) -> web.Response:
        return json_response(200, document())

    async def _health(self, _: web.Request) -> web.Response:
        loaded = self._active.current
        return json_response(
            200,
            {
                "status": "ok" if loaded else "waiting for a first model",
                "model": loaded.name if loaded else None,
                "serving": loaded.label if loaded else None,
                "release": loaded.release_id if loaded else None,
                "failure": self._active.failure,
            },
        )

    async def _ready(self, _: web.Request) -> web.Response:
        is_ready = self._active.current is not None
        return json_response(200 if is_ready else 503, {"ready": is_ready})

    async def _page_of_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.export(), headers={"Content-Type": CONTENT_TYPE})

    async def _reload(self, request: web.Request) -> web.Response:
        reloader = self._admin(request)
        await reloader.look(again=True)
        return await self._health(request)

    async def _use(self, request: web.Request) -> web.Response:
        reloader = self._admin(request)
        raw = parse_object(await self._body(request)).get("release")
        try:
            release_id = bytes.fromhex(raw if isinstance(raw, str) and len(raw) == 64 else "?")  # noqa: PLR2004 (hex)
        except ValueError:
            raise InvalidRequest("release is an event id, 64 hex digits", field="release") from None
        try:
            await reloader.use(release_id)
        except UnfitModel as error:
            raise web.HTTPConflict(text=str(error)) from None
        return await self._health(request)

    def _admin(self, request: web.Request) -> Reloader:
        """Whoever may change what is served, and what to change it with; raises HTTPForbidden and others."""
        if not self._config.api_keys:
            raise web.HTTPForbidden(text="this needs an API key, and the server has none: --api-key-file")
        with self._guard.admit(request):
            if self._reloader is None:
                raise web.HTTPConflict(text="this server serves a file, not the store's releases")
            return self._reloader

    async def _body(self, request: web.Request) -> bytes:
        limit, length = self._config.limits.body_timeout_s, request.content_length or 0
        if length > MAX_BODY:  # before it is sent
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY, actual_size=length)
        try:
            async with asyncio.timeout(limit):
                return await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text=f"the body did not arrive in {limit:.0f} s") from None
        except web.RequestPayloadError:
            raise InvalidRequest("the body is not encoded as its headers say") from None


@contextlib.asynccontextmanager
async def running(
    active: ActiveModel,
    reloader: Reloader | None,
    config: ServerConfig,
    provenance: Provenance | None = None,
    *,
    listen_socket: socket.socket | None = None,
    watchdog: Watchdog = lambda _check: contextlib.nullcontext(),
) -> AsyncIterator[str]:
    """A server that answers; gives its address. On leaving, it takes no more requests and finishes those under way.

    It listens on the socket it is `given`, else where the config say. `watched` is entered for as long as it runs,
    with a check that comes back while the thread that decodes does. Raises CannotListen if the address cannot be had.
    """
    metrics = Metrics()
    engine = Engine(threads=config.threads, max_sequences=config.limits.max_sequences, metrics=metrics)
    metrics.add_gauges(partial(_snapshot, active, engine))
    application = Application(active, reloader, provenance, engine, config, metrics)
    try:
        async with watchdog(engine.heartbeat), _answering(application, reloader, config, listen_socket) as address:
            yield address
    finally:
        engine.close()


@contextlib.asynccontextmanager
async def _answering(
    application: Application, reloader: Reloader | None, config: ServerConfig, listen_socket: socket.socket | None
) -> AsyncIterator[str]:
    runner = web.AppRunner(
        application.web,
        handler_cancellation=True,
        shutdown_timeout=config.limits.shutdown_timeout_s,
    )
    await runner.setup()
    watch: asyncio.Task[None] | None = None
    listener: asyncio.Server | None = None
    try:
        if reloader:
            await reloader.look()
            watch = asyncio.create_task(reloader.run(), name="reloader")
        listener = await listen(runner, config, listen_socket)
        host, port, *_ = listener.sockets[0].getsockname()
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        if watch:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        if listener is not None:
            listener.close()
        await runner.cleanup()


def _snapshot(active: ActiveModel, engine: Engine) -> Snapshot:
    loaded = active.current
    return Snapshot(
        sequences_running=engine.running,
        sequences_waiting=engine.waiting,
        model_swaps=active.swaps,
        model_swap_failures=active.failures,
        is_failing=active.failure is not None,
        model_info={"label": loaded.label, "release": loaded.release_id or "", "model": loaded.name}
        if loaded
        else None,
        loaded_at=loaded.loaded_at if loaded else 0.0,
    )


def _there(loaded: LoadedModel | None) -> LoadedModel:
    if loaded is None:
        raise web.HTTPServiceUnavailable(
            text="no model to answer with yet", headers={"Retry-After": str(RETRY_AFTER_S)}
        )
    return loaded


def _release(loaded: LoadedModel) -> dict[str, str]:
    return {"X-Release": loaded.release_id} if loaded.release_id else {}

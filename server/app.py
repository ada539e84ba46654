"""HTTP application: routes, streaming, start and graceful shutdown. Does network I/O."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import orjson
from aiohttp import web

from relay_client.errors import quote
from server.admission import Admission
from server.completion import Completion
from server.config import ServerConfig
from server.engine import Engine
from server.errors import Busy, InvalidRequest, ModelLoadError
from server.fields import parse_object
from server.listen import listen
from server.metrics import CONTENT_TYPE, Metrics, Snapshot
from server.middleware import API_KEY, REQUEST_ID, RETRY_AFTER_S, STREAM, Middleware, error_response, json_response
from server.models import ActiveModel, LoadedModel
from server.openapi import document
from server.page import Page
from server.provenance import Provenance
from server.reloader import Reloader
from server.request_factory import send_continue
from server.responses import OpenAIFormat, WholeChoice, models_body, openai_error_body, plain_body, usage
from server.schema import MAX_BODY, CompletionRequest, parse_chat, parse_completion, parse_plain
from server.turns import LoopTurns

if TYPE_CHECKING:
    from server.acceptor import Acceptor

Watchdog: TypeAlias = Callable[[Callable[[], Awaitable[None]]], contextlib.AbstractAsyncContextManager[None]]

log = logging.getLogger(__name__)


class Application:
    """Routes over one active model and one engine."""

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
        self._turns = LoopTurns()
        self._admission = Admission(config.limits)
        self._page = Page(active, provenance, needs_key=bool(config.api_keys))
        middleware = Middleware(config, metrics)
        self.web = web.Application(client_max_size=MAX_BODY, middlewares=[middleware.handle])
        self.web.on_response_prepare.append(middleware.add_headers)
        self.web.add_routes(
            [  # each needs an API key, unless middleware.PUBLIC_ROUTES has it
                *self._page.routes(),
                web.post("/", self._complete),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{model}", self._models),
                web.get("/openapi.json", self._openapi),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                web.get("/metrics", self._export_metrics),
                web.post("/admin/reload", self._reload),
                web.post("/admin/use", self._use),
            ]
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        params = parse_plain(await self._body(request))
        async with self._completion(request, params) as completion:
            body = plain_body(
                text=await completion.text(),
                model=completion.model.shape,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                dropped_characters=completion.dropped_characters,
            )
            return json_response(200, body, _release_header(completion.model))

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._openai(request, parse_completion, is_chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._openai(request, parse_chat, is_chat=True)

    async def _openai(
        self, request: web.Request, parse: Callable[[bytes], CompletionRequest], *, is_chat: bool
    ) -> web.StreamResponse:
        params = parse(await self._body(request))
        async with self._completion(request, params) as completion:
            model = completion.model
            form = OpenAIFormat(
                is_chat=is_chat,
                request_id=request[REQUEST_ID],
                created=int(time.time()),
                model=model.name,
                fingerprint=model.fingerprint,
                vocab=model.language_model.tokenizer.vocab,
                special_ids=model.language_model.tokenizer.special_ids,
                logprobs=params.logprobs is not None,
            )
            if params.stream:
                return await self._stream(request, completion, form, include_usage=params.include_usage)
            choices = [WholeChoice() for _ in range(params.choices)]
            async for part in completion:
                choices[part.index].add(part, form.logprobs_of(part))
            bodies = []
            for index, choice in enumerate(choices):
                await self._turns.next()
                bodies.append(form.whole(index, choice))
            response = json_response(200, form.body(bodies, _usage(completion)), _release_header(model))
            await self._turns.next()  # sending a large body takes as long as making it
            return response

    @contextlib.asynccontextmanager
    async def _completion(self, request: web.Request, params: CompletionRequest) -> AsyncIterator[Completion]:
        """Submit a request to the active model; raises Busy and KeyLimitReached."""
        with self._active.lease() as found:
            loaded, key = _required(found), request.get(API_KEY)
            tokens = params.most_tokens(loaded.language_model.config.block_size)
            with self._admission.admit(key, sequences=params.choices, tokens=tokens):
                completion = Completion(self._engine, self._turns, loaded, params, key=key)
                async with completion:
                    self._metrics.prompt_tokens.inc(completion.prompt_tokens)
                    yield completion

    async def _stream(
        self, request: web.Request, completion: Completion, form: OpenAIFormat, *, include_usage: bool
    ) -> web.StreamResponse:
        """Send server-sent events: a chunk for each part of a choice, then `[DONE]`.

        Raises:
            TimeoutError: The client does not read.
            ConnectionError: The client disconnected.
        """
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers | _release_header(completion.model))
        request[STREAM] = response
        await response.prepare(request)
        begun: set[int] = set()
        try:
            async for choice in completion:
                chunk = form.chunk(choice, first=choice.index not in begun)
                begun.add(choice.index)
                await self._send_event(response, orjson.dumps(chunk))
            if include_usage:
                counts = _usage(completion)
                await self._send_event(response, orjson.dumps(form.usage_chunk(counts)))
        except (TimeoutError, ConnectionError):
            raise
        except Exception as error:  # the status was sent: the error goes into the stream
            if not isinstance(error, Busy):
                log.exception("stream failed", extra={"request_id": request[REQUEST_ID]})
            reason = str(error) if isinstance(error, Busy) else "internal error; see the server's log"
            body = openai_error_body(f"the text is incomplete: {reason}", status=500)
            await self._send_event(response, orjson.dumps(body))
        await self._send_event(response, b"[DONE]")
        return response

    async def _send_event(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._config.limits.write_timeout_s):
            await response.write(b"data: %b\n\n" % data)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        loaded = self._active.current
        body = models_body({loaded.name: int(loaded.loaded_at)} if loaded else {})
        name = request.match_info.get("model")
        if name is None:
            return json_response(200, body)
        if loaded is None or name != loaded.name:
            return error_response(request, 404, f"no model {quote(name)}", field="model")
        return json_response(200, body["data"][0])

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

    async def _export_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.export(), headers={"Content-Type": CONTENT_TYPE})

    async def _reload(self, request: web.Request) -> web.Response:
        await self._required_reloader().check(force=True)
        return await self._health(request)

    async def _use(self, request: web.Request) -> web.Response:
        reloader = self._required_reloader()
        raw = parse_object(await self._body(request)).get("release")
        try:
            release_id = bytes.fromhex(raw if isinstance(raw, str) and len(raw) == 64 else "?")  # noqa: PLR2004 (hex)
        except ValueError:
            raise InvalidRequest("release must be an event id, 64 hex digits", field="release") from None
        try:
            await reloader.use(release_id)
        except ModelLoadError as error:
            raise web.HTTPConflict(text=str(error)) from None
        return await self._health(request)

    def _required_reloader(self) -> Reloader:
        """Return the reloader for an operator's request; raises HTTPForbidden and HTTPConflict."""
        if not self._config.api_keys:
            raise web.HTTPForbidden(text="this route needs an API key, and the server has none; set --api-key-file")
        if self._reloader is None:
            raise web.HTTPConflict(text="the server was started with a model file, not with the store's releases")
        return self._reloader

    async def _body(self, request: web.Request) -> bytes:
        timeout_s, length = self._config.limits.body_timeout_s, request.content_length or 0
        if length > MAX_BODY:  # refused before it is sent
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY, actual_size=length)
        try:
            async with asyncio.timeout(timeout_s):
                await send_continue(request)
                return await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text=f"the body did not arrive within {timeout_s:g} s") from None
        except web.RequestPayloadError:
            raise InvalidRequest("the body is not encoded as its headers say") from None


@contextlib.asynccontextmanager
async def run_server(
    active: ActiveModel,
    reloader: Reloader | None,
    config: ServerConfig,
    provenance: Provenance | None = None,
    *,
    listen_sockets: Sequence[socket.socket] = (),
    watchdog: Watchdog = lambda _heartbeat: contextlib.nullcontext(),
) -> AsyncIterator[str]:
    """Run a server and yield its address; on exit, it accepts no more requests and finishes the running ones.

    Args:
        active: The model that answers.
        reloader: Replaces the active model when the store's current release changes; None for a model file.
        config: Address, keys and limits.
        provenance: What the page shows of the store.
        listen_sockets: Open sockets to listen on, instead of the configured address.
        watchdog: Entered while the server runs, with a heartbeat that returns as long as the decode workers do.

    Raises:
        CannotListen: The address is in use, or not one of this machine.
    """
    metrics = Metrics()
    engine = Engine(threads=config.threads, metrics=metrics)
    metrics.add_gauges(partial(_snapshot, active, engine))
    application = Application(active, reloader, provenance, engine, config, metrics)
    try:
        async with watchdog(engine.heartbeat), _listening(application, reloader, config, listen_sockets) as address:
            yield address
    finally:
        engine.close()


@contextlib.asynccontextmanager
async def _listening(
    application: Application, reloader: Reloader | None, config: ServerConfig, listen_sockets: Sequence[socket.socket]
) -> AsyncIterator[str]:
    runner = web.AppRunner(
        application.web,
        handler_cancellation=True,
        shutdown_timeout=config.limits.shutdown_timeout_s,
    )
    await runner.setup()
    reloading: asyncio.Task[None] | None = None
    listener: Acceptor | None = None
    try:
        if reloader:
            await reloader.check()
            reloading = asyncio.create_task(reloader.run(), name="reloader")
        listener = await listen(runner, config, listen_sockets)
        host, port, *_ = listener.sockets[0].getsockname()
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        if reloading:
            reloading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reloading
        if listener is not None:
            listener.close()
        await runner.cleanup()


def _usage(completion: Completion) -> dict[str, int]:
    return usage(completion.prompt_tokens, completion.completion_tokens, completion.dropped_characters)


def _snapshot(active: ActiveModel, engine: Engine) -> Snapshot:
    loaded = active.current
    info = {"label": loaded.label, "release": loaded.release_id or "", "model": loaded.name} if loaded else None
    return Snapshot(
        sequences_running=engine.running,
        sequences_waiting=engine.waiting,
        model_swaps=active.swaps,
        model_swap_failures=active.failures,
        is_failing=active.failure is not None,
        model_info=info,
        loaded_at=loaded.loaded_at if loaded else 0.0,
    )


def _required(loaded: LoadedModel | None) -> LoadedModel:
    if loaded is None:
        raise web.HTTPServiceUnavailable(text="no model is loaded yet", headers={"Retry-After": str(RETRY_AFTER_S)})
    return loaded


def _release_header(loaded: LoadedModel) -> dict[str, str]:
    return {"X-Release": loaded.release_id} if loaded.release_id else {}

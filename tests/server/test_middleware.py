"""Authorization: a route needs a key unless the middleware lists it as public."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from support.serving import config, serving

from server.metrics import Metrics
from server.middleware import PUBLIC_ROUTES, Middleware
from server.models import LoadedModel
from server.openapi import document

KEY = "s3cret"
BEARER = {"Authorization": f"Bearer {KEY}"}
ROUTES = sorted((method.upper(), path) for path, methods in document()["paths"].items() for method in methods)


@contextlib.asynccontextmanager
async def serving_route(path: str, handler: object) -> AsyncIterator[str]:
    """Run an application with one new route; gives its URL."""
    application = web.Application(middlewares=[Middleware(config(api_keys=[KEY]), Metrics()).handle])
    application.router.add_route("*", path, handler)  # type: ignore[arg-type]  # a coroutine function
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
    finally:
        await runner.cleanup()


async def test_new_route_needs_a_key(session: aiohttp.ClientSession) -> None:
    called: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        called.append(request.method)
        return web.Response(text="secret")

    async with serving_route("/new", handler) as address:
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
            async with session.request(method, address) as response:
                assert response.status == 401
                assert "secret" not in await response.text()
        assert called == []
        async with session.get(address, headers=BEARER) as response:
            assert (response.status, await response.text()) == (200, "secret")
    assert called == ["GET"]


async def test_public_route_is_public_for_reading_only(session: aiohttp.ClientSession) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="read me")

    async with serving_route("/health", handler) as address:
        async with session.get(address) as response:
            assert response.status == 200
        async with session.post(address) as response:
            assert response.status == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_documented_route_needs_a_key_unless_public(
    session: aiohttp.ClientSession, loaded: LoadedModel, method: str, path: str
) -> None:
    async with serving(loaded, api_keys=[KEY]) as address, session.request(method, address + path) as response:
        is_public = method == "GET" and path in PUBLIC_ROUTES
        assert (response.status != 401) is is_public


async def test_unknown_route_is_not_found_without_a_key(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    async with serving(loaded, api_keys=[KEY]) as address:
        async with session.get(f"{address}/nothing") as response:
            assert response.status == 404
        async with session.put(f"{address}/health") as response:
            assert response.status == 405

"""Limits: hosts, origins, keys, slow clients, many clients."""

import asyncio
import contextlib
import threading
from dataclasses import replace

import aiohttp
import pytest
from support.models import Gated, endless
from support.scrape import scrape, sequence_count, until_sequences
from support.serving import REMOTE, serving, small_buffers, unread_request

from relay_client.errors import CallerError
from server.limits import Limits
from server.models import LoadedModel

WAIT_S = 60
ASK = {"prompt": "x", "max_tokens": 1}


@pytest.fixture
def gated(gate: threading.Event) -> LoadedModel:
    """Return a model with decode steps that wait for the gate."""
    model = endless()
    return LoadedModel(language_model=replace(model, decoder=Gated(model.decoder, gate)), release_id=None, label="slow")


async def connect(address: str, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port), local_addr=(source, 0))


async def status(session: aiohttp.ClientSession, address: str, **headers: str) -> tuple[int, str]:
    async with session.post(address, json=ASK, headers=headers) as response:
        return response.status, await response.text()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", 200), ("localhost:9", 200), ("[::1]:9", 200), ("evil.example", 403), ("", 403), ("[", 403)],
)
async def test_host_header_must_name_the_server(
    session: aiohttp.ClientSession, loaded: LoadedModel, host: str, expected: int
) -> None:
    async with serving(loaded, hosts={"localhost", "::1"}) as address:
        found, words = await status(session, address, Host=host)
    assert found == expected
    assert ("--allow-host" in words) == (expected == 403)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [(None, 200), ("same", 200), ("https://mine.example", 200), ("https://evil.example", 403), ("null", 403)],
)
async def test_third_party_origin_must_be_allowed(
    session: aiohttp.ClientSession, loaded: LoadedModel, origin: str | None, expected: int
) -> None:
    async with serving(loaded, origins=["https://mine.example"]) as address:
        headers = {} if origin is None else {"Origin": address if origin == "same" else origin}
        async with session.post(address, json=ASK, headers=headers) as response:
            assert response.status == expected
            allowed = response.headers.get("Access-Control-Allow-Origin")
        assert allowed == (origin if origin == "https://mine.example" else None)
        preflight = headers | {"Access-Control-Request-Method": "POST"}
        async with session.options(f"{address}/v1/completions", headers=preflight) as response:
            assert response.status == (204 if expected == 200 else 403)
            assert ("Access-Control-Allow-Origin" in response.headers) == (origin == "https://mine.example")


async def test_third_party_origins_are_refused_by_default(session: aiohttp.ClientSession, address: str) -> None:
    found, words = await status(session, address, Origin="https://mine.example")
    assert found == 403
    assert "--allow-origin" in words


@pytest.mark.parametrize("name", [*Limits.__dataclass_fields__])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(CallerError, match=f"{name} must be positive, not {value}"):
        Limits(**{name: value})  # type: ignore[arg-type]  # some are whole numbers


async def test_any_of_several_keys_is_accepted(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    async with serving(loaded, api_keys=["one", "clé 🔑"]) as address:
        tried = ("one", "clé 🔑", "three", "cl", "clé", "ONE")
        found = [(await status(session, address, Authorization=f"Bearer {key}"))[0] for key in tried]
        async with session.get(f"{address}/v1/models") as response:
            assert response.status == 401
            assert (await response.json())["error"]["type"] == "authentication_error"
    assert found == [200, 200, 401, 401, 401, 401]


async def test_sequences_per_key_are_limited(
    session: aiohttp.ClientSession, gated: LoadedModel, gate: threading.Event
) -> None:
    async with serving(gated, api_keys=["one", "two"], max_per_key=1) as address:
        first = asyncio.create_task(status(session, address, Authorization="Bearer one"))
        await until_sequences(address, 1)
        second = await status(session, address, Authorization="Bearer one")
        other = asyncio.create_task(status(session, address, Authorization="Bearer two"))
        gate.set()
        assert second[0] == 429
        assert "1 of at most 1 sequences of this key are running or waiting" in second[1]
        assert (await first)[0] == (await other)[0] == 200
        assert (await status(session, address, Authorization="Bearer one"))[0] == 200


async def test_request_with_too_many_sequences_is_refused(session: aiohttp.ClientSession, loaded: LoadedModel) -> None:
    async with serving(loaded, max_sequences=3) as address:
        async with session.post(f"{address}/v1/completions", json=ASK | {"n": 4}) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"]["type"] == "server_error"
        async with session.post(f"{address}/v1/completions", json=ASK | {"n": 3}) as response:
            assert response.status == 200


async def test_incomplete_headers_time_out(loaded: LoadedModel) -> None:
    async with serving(loaded, header_timeout_s=0.05) as address:
        reader, writer = await connect(address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        async with asyncio.timeout(WAIT_S):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", b""),
        (b"POST / HTT", b""),
        (b"POST / HTTP/1.1\r\nHost: x\r\nX: ", b"x"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n", b" "),
    ],
    ids=["nothing", "half a line", "slow headers", "slow body"],
)
async def test_slow_client_times_out(loaded: LoadedModel, start: bytes, more: bytes) -> None:
    async with serving(loaded, header_timeout_s=0.3, body_timeout_s=0.3, linger_s=0.1) as address:
        reader, writer = await connect(address)
        writer.write(start)
        reading = asyncio.create_task(reader.read())
        async with asyncio.timeout(WAIT_S):
            while not reading.done():
                writer.write(more)
                await asyncio.wait([reading], timeout=0.05)
        with contextlib.suppress(ConnectionError):
            assert b" 200 " not in await reading
        writer.close()


async def test_connection_beyond_the_limit_gets_503(loaded: LoadedModel) -> None:
    connector = aiohttp.TCPConnector(local_addr=(REMOTE, 0))
    async with serving(loaded, max_connections=2) as address, aiohttp.ClientSession(connector=connector) as session:
        kept = [await connect(address, REMOTE) for _ in range(2)]
        for _, writer in kept:
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            for reader, _ in kept:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert await status(session, address) == (503, "")
            for _, writer in kept:
                writer.close()
                await writer.wait_closed()
            while (await status(session, address))[0] != 200:
                pass


async def test_unread_stream_ends_with_its_connection(session: aiohttp.ClientSession) -> None:
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless")
    body = b'{"max_tokens": 4096, "stream": true, "temperature": 0, "logprobs": 20}'
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with small_buffers() as listening:
        async with (
            serving(loaded, write_timeout_s=0.05, max_sequences=1, listen_sockets=[listening]) as address,
            unread_request(address, request),
            asyncio.timeout(WAIT_S),
        ):
            while "/v1/completions 499" not in " ".join(await scrape(address)):  # counted when it has ended
                pass
            assert (await status(session, address))[0] == 200


async def test_slow_response_times_out(
    session: aiohttp.ClientSession, gated: LoadedModel, gate: threading.Event
) -> None:
    async with serving(gated, request_timeout_s=0.5) as address:  # a stream begins sooner
        found, words = await status(session, address)
        assert (found, words) == (503, '{"error":"the response was not complete after 0.5 s"}')
        with pytest.raises(aiohttp.ClientError):
            async with session.post(f"{address}/v1/completions", json=ASK | {"stream": True}) as response:
                await response.read()
        assert await sequence_count(address) == 0
        gate.set()


async def test_key_that_floods_does_not_starve_another(session: aiohttp.ClientSession) -> None:
    loaded = LoadedModel(language_model=endless(), release_id=None, label="endless", max_slots=8)
    flood = {"prompt": "x", "n": 16, "max_tokens": 4096, "temperature": 0}
    async with serving(loaded, api_keys=["one", "two"], max_sequences=64, threads=2) as address:

        async def ask(key: str, body: dict[str, object]) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            async with session.post(f"{address}/v1/completions", json=body, headers=headers) as response:
                return response.status

        flooding = [asyncio.create_task(ask("one", flood)) for _ in range(8)]
        done, _ = await asyncio.wait(flooding, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in done} == {429}
        for _ in range(3):
            assert await ask("two", ASK) == 200
        assert sum(not task.done() for task in flooding) == 1  # it has the tokens of one such request
        for task in flooding:
            task.cancel()

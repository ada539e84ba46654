"""Errors quote at most 200 characters of foreign input, whichever parser reads it."""

import json
from collections.abc import Callable

import msgpack
import orjson
import pytest

from distribution.manifest import Manifest
from distribution.release_spec import ReleaseSpec
from randygpt.checkpoint.header import CheckpointHeader
from randygpt.checkpoint.sidecar import Sidecar
from randygpt.cli.flags import parse_size
from randygpt.errors import RandyGPTError
from randygpt.model.config import ModelConfig
from randygpt.model.sampling import Sampling
from randygpt.model.tokenizer import tokenizer_from_json
from relay_client.errors import quote
from relay_client.event import Event
from relay_client.filter import Filter
from relay_client.messages import parse_relay_message
from relay_client.nip19 import parse_reference
from relay_client.url import normalize_url
from server.auth import canonical_host, canonical_origin
from server.schema import parse_chat, parse_completion, parse_plain

LONG = "Z" * 50_000
SHAPE = {"n_embd": 4, "n_head": 1, "n_layer": 1, "vocab_size": 3, "block_size": 2}
EVENT = {"id": "a" * 64, "pubkey": "a" * 64, "created_at": 1, "kind": 1, "tags": [], "content": "", "sig": "a" * 128}
MESSAGE = {"role": "user", "content": "x"}


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


PARSERS: dict[str, Callable[[], object]] = {
    **{f"config {name}": lambda name=name: ModelConfig.from_json(SHAPE | {name: LONG}) for name in SHAPE},  # type: ignore[misc]
    **{f"event {name}": lambda name=name: Event.parse(EVENT | {name: LONG}) for name in EVENT},  # type: ignore[misc]
    "config list": lambda: ModelConfig.from_json(SHAPE | {"n_embd": [LONG]}),
    "config digits": lambda: ModelConfig.from_json(SHAPE | {"n_embd": 10**50_000}),
    "preset": lambda: ModelConfig.from_preset(LONG, vocab_size=1),
    "sidecar loss": lambda: Sidecar.from_json(
        {"config": SHAPE, "tokenizer": {"chars": ["a", "b", "c"]}, "losses": {LONG: "x"}}
    ),
    "vocabulary entry": lambda: tokenizer_from_json({"chars": [LONG, "b"]}),
    "merge": lambda: tokenizer_from_json({"vocab": ["a", "b", "c"], "merges": [[LONG, "b"]]}),
    "header": lambda: CheckpointHeader(magic=LONG, vocab_size=1, iteration=0, step=0, best_loss=1),
    "sampling": lambda: Sampling(max_tokens=LONG),  # type: ignore[arg-type]
    "size": lambda: parse_size(LONG),
    "release name": lambda: ReleaseSpec(name=LONG, format="RGPT0003", card={}, files=()),
    "manifest path": lambda: Manifest.decode(
        msgpack.packb({"v": 1, "chunk_size": 1, "files": [{"path": LONG, "role": LONG, "segments": []}]})
    ),
    "reference": lambda: parse_reference(LONG),
    "name of an author": lambda: parse_reference(f"npub1{LONG}/{LONG}"),
    "nevent": lambda: parse_reference(f"nevent1{LONG}"),
    "relay": lambda: normalize_url(f"https://{LONG}"),
    "port of a relay": lambda: normalize_url(f"wss://a:{LONG}"),
    "filter": lambda: Filter(tags={LONG: ("a",)}, limit=1),
    "relay message": lambda: parse_relay_message(json.dumps(["OK", LONG, LONG])),
    "host": lambda: canonical_host(f"{LONG}:80"),
    "origin": lambda: canonical_origin(LONG),
    "plain prompt": lambda: parse_plain(_body(prompt=[LONG])),
    "temperature": lambda: parse_completion(_body(temperature=LONG)),
    "stop": lambda: parse_completion(_body(stop=LONG)),
    "role": lambda: parse_chat(_body(messages=[MESSAGE | {"role": LONG}])),
    "content": lambda: parse_chat(_body(messages=[MESSAGE | {"content": {LONG: LONG}}])),
}


@pytest.mark.parametrize("parser", PARSERS)
def test_error_quotes_little_foreign_input(parser: str) -> None:
    with pytest.raises(RandyGPTError) as caught:
        PARSERS[parser]()
    assert str(caught.value).count("Z") <= 200
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "value",
    [LONG, [LONG], 10**50_000, {LONG: 1}, "\x1b[31m" * 1000, orjson.loads("[" * 1010 + "]" * 1010)],
    ids=["text", "list", "digits", "key", "escapes", "nested"],
)
def test_quoted_value_is_short(value: object) -> None:
    assert quote(value).isprintable()
    assert len(quote(value)) <= 4 * 200 + 2

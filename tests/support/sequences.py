"""Models for tests of the engine, and what each of them generates."""

import threading

import numpy as np

from randygpt.language_model import LanguageModel
from randygpt.model.sampling import Sampling, generate
from server.engine import Engine
from server.memory import MAX_SLOTS
from server.models import LoadedModel
from server.sequence import Request, SequenceOutput
from support.models import CONFIG, Gated, endless

WAIT_S = 60
ENDLESS = 1 << 30  # tokens: far longer than any test waits
GREEDY = Sampling(max_tokens=20, temperature=0)
BLOCK = CONFIG.block_size


def endless_model(*, max_slots: int = MAX_SLOTS) -> LoadedModel:
    return LoadedModel(language_model=endless(), release_id=None, label="endless", max_slots=max_slots)


def gated_model(opened: threading.Event, *, max_slots: int = MAX_SLOTS) -> LoadedModel:
    """Return a model whose decode steps wait until `opened` is set."""
    model = endless()
    gated = LanguageModel(decoder=Gated(model.decoder, opened), tokenizer=model.tokenizer)
    return LoadedModel(language_model=gated, release_id=None, label="gated", max_slots=max_slots)


def reference(model: LoadedModel, prompt: list[int], sampling: Sampling) -> list[int]:
    """Return the tokens of a sequence that is decoded alone."""
    return list(generate(model.language_model.decoder, prompt, sampling))


async def complete(
    engine: Engine,
    model: LoadedModel,
    prompt: list[int],
    sampling: Sampling,
    *,
    key: int | None = None,
    logprobs: int | None = None,
) -> SequenceOutput:
    """Return all output of one sequence."""
    with engine.submit(model, [(prompt, sampling)], key=key, logprobs=logprobs, stream=False) as request:
        [output] = await request.next_outputs()
    return output


async def tokens_of(engine: Engine, model: LoadedModel, prompt: list[int], sampling: Sampling) -> list[int]:
    return [token.id for token in (await complete(engine, model, prompt, sampling)).tokens]


async def drain(request: Request) -> None:
    """Read all output of a request."""
    while not request.finished:
        await request.next_outputs()


def random_ids(length: int, *, seed: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(2, CONFIG.vocab_size, size=length)]

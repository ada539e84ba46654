"""What Prometheus is told. No I/O."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from server.engine import Engine
    from server.models import Serving

PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 24, 32, 64)


class Metrics:
    """Counts and times of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("randygpt_requests", "Requests answered", ["route", "status"], registry=self._registry)
        self.prompt_tokens = Counter("randygpt_prompt_tokens", "Tokens of prompts", registry=self._registry)
        self._tokens = Counter("randygpt_completion_tokens", "Tokens drawn", registry=self._registry)
        self._first = Histogram(
            "randygpt_first_token_seconds",
            "From a request to its first token",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._step = Histogram(
            "randygpt_step_seconds", "Between two tokens of a text", buckets=_SECONDS, registry=self._registry
        )
        self._batch = Histogram(
            "randygpt_batch_texts", "Texts that got a token in one step", buckets=_TEXTS, registry=self._registry
        )

    def stepped(self, texts: int, seconds: float) -> None:
        """A step gave some texts a token."""
        self._tokens.inc(texts)
        self._batch.observe(texts)
        self._step.observe(seconds)

    def began(self, seconds: float) -> None:
        """A text got its first token, so long after it was asked for."""
        self._first.observe(seconds)

    def watch(self, serving: "Serving", engine: "Engine") -> None:
        """Tell of the model in charge too, and of how many texts there are."""
        self._registry.register(_State(serving, engine))

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is so at the moment, and is looked up when somebody asks."""

    def __init__(self, serving: "Serving", engine: "Engine") -> None:
        self._serving = serving
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        serving, loaded = self._serving, self._serving.current
        yield GaugeMetricFamily("randygpt_texts", "Texts under way or waiting", self._engine.count)
        yield GaugeMetricFamily("randygpt_waiting_texts", "Of these, waiting for a place", self._engine.waiting)
        yield CounterMetricFamily("randygpt_swaps", "Models put in charge", serving.swaps)
        yield CounterMetricFamily("randygpt_swap_failures", "Models that did not pass", serving.failures)
        yield GaugeMetricFamily("randygpt_failing", "Whether the newest release did not pass", bool(serving.failure))
        if loaded:
            age = GaugeMetricFamily("randygpt_model_age_seconds", "Since the model was loaded")
            age.add_metric([], time.time() - loaded.loaded_at)
            yield age
            facts = {"label": loaded.label, "release": loaded.release_id or "", "model": loaded.name}
            yield InfoMetricFamily("randygpt_model", "The model in charge", facts)

"""Metrics in Prometheus' text format. No network or disk I/O."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """State of a server at scrape time."""

    sequences_running: int
    sequences_waiting: int
    model_swaps: int
    model_swap_failures: int
    is_failing: bool  # the newest release could not replace the active model
    model_info: dict[str, str] | None = None  # labels; None before the first model
    loaded_at: float = 0.0  # of the active model, seconds since 1970


class Metrics:
    """Counters and histograms of one server; gauges are sampled at scrape time."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "randygpt_requests", "Number of HTTP requests", ["route", "status"], registry=self._registry
        )
        self.prompt_tokens = Counter("randygpt_prompt_tokens", "Number of prompt tokens", registry=self._registry)
        self._completion_tokens = Counter(
            "randygpt_completion_tokens", "Number of generated tokens", registry=self._registry
        )
        self._time_to_first_token = Histogram(
            "randygpt_time_to_first_token_seconds",
            "Time from a request to the first token of a sequence",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._decode_step_interval = Histogram(
            "randygpt_decode_step_interval_seconds",
            "Time between the ends of two decode steps that gave tokens",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_size = Histogram(
            "randygpt_batch_size",
            "Number of sequences that got a token in a decode step",
            buckets=_BATCH_SIZES,
            registry=self._registry,
        )

    def observe_step(self, batch_size: int, seconds: float) -> None:
        """Count a decode step that gave `batch_size` sequences a token, `seconds` after the one before."""
        self._completion_tokens.inc(batch_size)
        self._batch_size.observe(batch_size)
        self._decode_step_interval.observe(seconds)

    def observe_first_token(self, seconds: float) -> None:
        """Count the first token of a sequence, `seconds` after its request arrived."""
        self._time_to_first_token.observe(seconds)

    def add_gauges(self, sample: Callable[[], Snapshot]) -> None:
        """Export what `sample` returns at each scrape."""
        self._registry.register(_Gauges(sample))

    def export(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """Gauges sampled at scrape time."""

    def __init__(self, sample: Callable[[], Snapshot]) -> None:
        self._sample = sample

    def collect(self) -> Iterator[Metric]:
        now = self._sample()
        yield GaugeMetricFamily(
            "randygpt_sequences_running", "Number of sequences in a decode worker", now.sequences_running
        )
        yield GaugeMetricFamily(
            "randygpt_sequences_waiting", "Number of sequences queued for a slot", now.sequences_waiting
        )
        yield CounterMetricFamily("randygpt_model_swaps", "Number of models that became active", now.model_swaps)
        yield CounterMetricFamily(
            "randygpt_model_swap_failures", "Number of models that could not be loaded", now.model_swap_failures
        )
        yield GaugeMetricFamily(
            "randygpt_model_swap_failing", "1 while the newest release could not be loaded", now.is_failing
        )
        if now.model_info is not None:
            yield GaugeMetricFamily(
                "randygpt_model_age_seconds", "Time since the active model was loaded", time.time() - now.loaded_at
            )
            yield InfoMetricFamily("randygpt_model", "The active model", now.model_info)

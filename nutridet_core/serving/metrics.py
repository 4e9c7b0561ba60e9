"""Metrics: what Prometheus may ask of a gateway.

Belongs here: names, labels and buckets. Labels take few values: never a client's text.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from nutridet_core.serving.holder import Identity

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    Args:
        under_way: gives the number of photos under way.
        identity: gives the model being served.
    """

    def __init__(self, under_way: Callable[[], float], identity: Callable[[], Identity]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("nutridet_requests", "HTTP requests.", ("route", "status"), registry=self.registry)
        self.photos = Counter(
            "nutridet_photos",
            "Photos: table, no_table, unreadable answer, refused (status below 500), failed.",
            ("outcome",),
            registry=self.registry,
        )
        self.problems = Counter(
            "nutridet_answer_problems", "What was wrong with models' answers.", ("problem",), registry=self.registry
        )
        self.seconds = Histogram(
            "nutridet_stage_seconds",
            "Seconds of an answered photo by stage: decode, wait, answer, total.",
            ("stage",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.exchanges = Counter(
            "nutridet_model_exchanges", "Models exchanged under an alias.", ("succeeded",), registry=self.registry
        )
        self._model = Gauge("nutridet_model", "1 for the model served.", ("name", "version"), registry=self.registry)
        self._identity = identity
        Gauge("nutridet_photos_under_way", "Photos waiting or being answered.", registry=self.registry).set_function(
            under_way
        )

    def exchanged(self, succeeded: bool) -> None:
        """Count an exchange."""
        self.exchanges.labels(str(succeeded).lower()).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        identity = self._identity()
        self._model.clear()
        self._model.labels(identity.name, identity.version or "").set(1)
        return generate_latest(self.registry)

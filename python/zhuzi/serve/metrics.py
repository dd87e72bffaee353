"""What a server counts, for Prometheus."""

from __future__ import annotations

from typing import Any

from zhuzi.serve.scheduler import Scheduler

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, scheduler: Scheduler) -> None:
        import prometheus_client as prometheus

        self._registry = prometheus.CollectorRegistry()
        registry: Any = self._registry
        self.requests = prometheus.Counter(
            "zhuzi_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self.tokens = prometheus.Counter(
            "zhuzi_tokens", "Tokens read in prompts and made in answers.", ["kind"], registry=registry
        )
        self.gone = prometheus.Counter(
            "zhuzi_clients_gone", "Clients that left before their answer was complete.", registry=registry
        )
        self.first_token = prometheus.Histogram(
            "zhuzi_first_token_seconds",
            "From a request to the first token of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = prometheus.Histogram(
            "zhuzi_answer_seconds",
            "From a request to the end of its answers.",
            buckets=_SECONDS,
            registry=registry,
        )
        active = prometheus.Gauge("zhuzi_answers_active", "Answers that grow now.", registry=registry)
        active.set_function(lambda: scheduler.active)
        waiting = prometheus.Gauge("zhuzi_answers_waiting", "Answers that wait.", registry=registry)
        waiting.set_function(lambda: scheduler.waiting)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        import prometheus_client

        text: bytes = prometheus_client.generate_latest(self._registry)
        return text

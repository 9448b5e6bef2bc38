"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server.

    Args:
        drawing: says how many takes are drawn or wait for a slot.
    """

    def __init__(self, drawing: Callable[[], int]):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "llasa"}
        routes = "Requests that were answered, by route and status"
        self.requests = Counter("requests", routes, ["route", "status"], **own)
        self.cancelled = Counter("cancelled", "Requests whose client went away", **own)
        self.audio = Counter("audio_seconds", "Seconds of sound that were made", **own)
        self.first = Histogram(
            "first_byte_seconds", "From request to first byte of sound", buckets=SECONDS, **own
        )
        self.whole = Histogram(
            "request_seconds", "From request to the end of speaking", buckets=SECONDS, **own
        )
        self.active = Gauge("active_requests", "Requests that wait or are spoken", **own)
        Gauge("takes", "Takes that are drawn or wait", **own).set_function(drawing)

    def text(self) -> bytes:
        return generate_latest(self.registry)

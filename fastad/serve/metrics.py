"""What Prometheus may ask of a server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fastad.serve.tables import Result

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.images = Counter(
            "fastad_images_total", "Images by verdict.", ["detector", "verdict"], registry=registry
        )
        self.refused = Counter(
            "fastad_refused_total", "Requests that found the queue full.", registry=registry
        )
        self.unstored = Counter(
            "fastad_unstored_total", "Requests whose results could not be kept.", registry=registry
        )
        self.waiting = Gauge("fastad_waiting", "Requests in the queue.", registry=registry)
        self.seconds = Histogram(
            "fastad_batch_seconds", "Time to predict a batch.", buckets=SECONDS, registry=registry
        )

    def count(self, detector: str, result: Result | None) -> None:
        """Count one image. None was unreadable."""
        if result is None:
            verdict = "unreadable"
        else:
            verdict = {True: "defect", False: "good", None: "none"}[result.is_anomalous]
        self.images.labels(detector, verdict).inc()

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)

"""What monitors ask."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from fastad.serve.api import PROBLEMS
from fastad.serve.service import Service


def probes(service: Service) -> APIRouter:
    """What monitors ask: whether the server lives, can work, and how it does."""
    router = APIRouter(responses=PROBLEMS)

    @router.get("/health")
    def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/ready")
    def ready() -> Any:
        """Whether images are judged and results can be kept."""
        try:
            is_ready = service.is_ready
        except Exception:
            is_ready = False
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Any:
        """Counts and times, for Prometheus."""
        return PlainTextResponse(service.metrics.text())

    return router

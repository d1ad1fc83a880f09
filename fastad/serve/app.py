"""The application that uvicorn runs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import fastad
from fastad.serve.api import api
from fastad.serve.pages import pages
from fastad.serve.probes import probes
from fastad.serve.safety import Safety, TooLarge
from fastad.serve.service import Service

log = logging.getLogger("fastad")


def application(service: Service) -> ASGIApp:
    """The routes of a server and what stands before them."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.inspection.start()
        for folder in service.folders:
            folder.start()
        yield
        for folder in service.folders:
            await asyncio.to_thread(folder.stop)
        service.inspection.stop()
        service.store.engine.dispose()

    app = FastAPI(
        title="fastad",
        version=fastad.__version__,
        description="Judges images with trained detectors, and keeps what it found.",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        lifespan=life,
    )
    app.include_router(api(service))
    app.include_router(probes(service))
    app.include_router(pages(service), include_in_schema=False)

    @app.exception_handler(TooLarge)
    async def too_large(_: Request, __: Exception) -> Any:
        detail = f"the body may have {service.settings.max_bytes} bytes at most"
        return JSONResponse({"detail": detail}, 413, headers={"Connection": "close"})

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: Exception) -> Any:
        return JSONResponse({"detail": "the body broke off"}, 400)  # nobody reads it

    return Safety(app, service.settings)

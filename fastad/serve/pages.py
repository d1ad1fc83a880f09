"""The page that people use: written by the server, with one small script for keys and dragging."""

import asyncio
import functools
from pathlib import Path as File
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from fastad._html import template
from fastad.serve.api import Name, Number, inspected
from fastad.serve.pictures import mask_outline
from fastad.serve.plots import drift_plot
from fastad.serve.safety import COOKIE, is_token, session_of
from fastad.serve.schemas import iso, result_out
from fastad.serve.service import Service
from fastad.serve.store import DEFECT, GOOD, Filters

PER_PAGE = 60
STATIC = {"style.css": "text/css", "script.js": "text/javascript", "icon.svg": "image/svg+xml"}
SVG_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
WEEK = 7 * 86400
KEPT = ("detector", "camera", "verdict", "label")  # filters that links carry on

page_template = functools.lru_cache(None)(functools.partial(template, "fastad.serve"))


def chosen(
    detector: Name = None,
    camera: Name = None,
    verdict: Literal["good", "defect", ""] = "",
    label: Literal["good", "defect", "none", ""] = "",
) -> Filters:
    """The filters of a form, where "" stands for any."""
    return Filters(detector or None, camera or None, verdict or None, label or None)


Asked = Annotated[Filters, Depends(chosen)]


def render(service: Service, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of the templates."""
    names = [live.name for live in service.detectors]
    has_login = service.settings.token is not None
    text = page_template(name).render(names=names, has_login=has_login, **values)
    return HTMLResponse(text, status)


def query_of(asked: Filters, **more: Any) -> str:
    """The filters as a query, "" without any."""
    values = {name: getattr(asked, name) for name in KEPT} | more
    text = urlencode({name: value for name, value in values.items() if value is not None})
    return f"?{text}" if text else ""


def own_address(address: str, otherwise: str) -> str:
    """An address to go back to, if it is one of this server's."""
    parts = urlsplit(address)
    is_own = address.startswith("/") and not parts.scheme and not parts.netloc
    if not is_own or "\\" in address or not address.isascii() or not address.isprintable():
        return otherwise
    query = urlencode(parse_qsl(parts.query))
    return parts.path.replace("//", "/") + (f"?{query}" if query else "")


def pages(service: Service) -> APIRouter:
    """The routes."""
    router, store = APIRouter(), service.store

    def problem(status: int, text: str) -> HTMLResponse:
        return render(service, "message.html", status, title="That did not work", text=text)

    def live_of(name: str) -> Any:
        try:
            return service.detectors.get(name)
        except LookupError as error:
            raise HTTPException(404, str(error.args[0])) from None

    @router.get("/")
    def index(
        request: Request,
        asked: Asked,
        before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
        part: Literal["rows"] | None = None,
    ) -> Any:
        found, total = store.page(asked, before=before, limit=PER_PAGE)
        older = query_of(asked, before=found[-1].id) if len(found) == PER_PAGE else None
        values: dict[str, Any] = {
            "results": [result_out(one) for one in found],
            "total": total,
            "asked": asked,
            "is_filtered": bool(query_of(asked)),
            "query": query_of(asked),
            "older": older,
            "before": before,
            "address": f"{request.url.scheme}://{request.url.netloc}",
        }
        return render(service, "rows.html" if part else "list.html", **values)

    @router.get("/results/{number}")
    def result(number: Number, asked: Asked) -> Any:
        one = store.result(number)
        if one is None:
            return problem(404, "There is no such result. It may have been too old to keep.")
        newer, older = store.neighbours(number, asked)
        drawing, border = store.drawing(number), None
        if drawing is not None and drawing.mask is not None:
            border = mask_outline(drawing.mask)
        query = query_of(asked)
        links = {
            "newer": None if newer is None else f"/results/{newer}{query}",
            "older": None if older is None else f"/results/{older}{query}",
        }
        return render(
            service, "result.html", result=result_out(one), links=links, border=border, query=query
        )

    @router.post("/results/{number}/label")
    def label(
        number: Number,
        label: Annotated[Literal["good", "defect", ""], Form()],
        back: Annotated[str, Form(max_length=2000)] = "/",
    ) -> Any:
        if store.label(number, label or None) is None:
            return problem(404, "There is no such result. It may have been too old to keep.")
        return RedirectResponse(own_address(back, "/"), 303)

    @router.post("/undo")
    def undo() -> Any:
        one = store.undo()
        if one is None:
            return problem(409, "There is no label to take back.")
        return RedirectResponse(f"/results/{one.id}", 303)

    @router.post("/upload")
    async def upload(request: Request, detector: Name = None, camera: Name = None) -> Any:
        try:
            answers = await inspected(service, request, detector, camera or "", None)
        except HTTPException as error:
            return problem(error.status_code, f"{error.detail}")
        failed = [one for one in answers if isinstance(one, Exception)]
        if failed:
            text = f"{len(failed)} of {len(answers)} images cannot be read: {failed[0]}"
            return problem(422, text)
        return RedirectResponse("/", 303)

    @router.get("/detectors/{name}")
    def detector(name: str, said: Annotated[str, Query(max_length=1000)] = "") -> Any:
        live = live_of(name)
        labelled, report = service.labelled(live), live.drift()
        known = [*labelled[GOOD], *labelled[DEFECT], *live.detector.calibration_scores_.tolist()]
        threshold = live.detector.threshold_
        known += [] if threshold is None else [threshold]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        room = (high - low) * 0.05 or 1.0
        return render(
            service,
            "detector.html",
            detector=service.summary(live),
            labelled=labelled,
            calibration=np.sort(live.detector.calibration_scores_).tolist(),
            low=low - room,
            high=high + room,
            report=report,
            versions=[(v, iso(v.time)[:16].replace("T", " ")) for v in store.versions(name)],
            good_images=len(store.good_images(name)),
            said=said,
        )

    @router.get("/detectors/{name}/drift.svg")
    def drift(name: str, narrow: bool = False) -> Any:
        live = live_of(name)
        report = live.drift()
        if report is None:
            raise HTTPException(404, "there is no image yet")
        picture = drift_plot(report, live.detector.threshold_, is_narrow=narrow)
        return Response(picture, media_type="image/svg+xml", headers=SVG_POLICY)

    @router.post("/detectors/{name}/{what}")
    def change(
        name: str,
        what: Literal["calibrate", "threshold", "use"],
        value: Annotated[float | None, Form(allow_inf_nan=False)] = None,
        version: Annotated[int | None, Form(ge=1, lt=2**31)] = None,
    ) -> Any:
        live_of(name)
        try:
            if what == "calibrate":
                said = f"Calibrated: {service.detectors.calibrate(name)}."
            elif what == "threshold" and value is not None:
                service.detectors.set_threshold(name, value)
                said = f"The threshold is {value:.4g} now."
            elif what == "use" and version is not None:
                service.detectors.use(name, version)
                said = f"Version {version} is in use again."
            else:
                return problem(422, "A value is missing.")
        except (ValueError, OSError, LookupError) as error:
            return problem(409, f"{error}")
        address = f"/detectors/{urlencode({'': live_of(name).name})[1:].replace('+', '%20')}"
        return RedirectResponse(f"{address}?{urlencode({'said': said[:900]})}", 303)

    @router.get("/login")
    def login() -> Any:
        return render(service, "login.html", wrong=False)

    @router.post("/login")
    async def logged_in(request: Request, token: Annotated[str, Form(max_length=1000)]) -> Any:
        expected = service.settings.token
        if expected is None or not is_token(token.strip(), expected):
            await asyncio.sleep(0.5)
            return render(service, "login.html", 403, wrong=True)
        answer = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE,
            session_of(expected),
            max_age=WEEK,
            httponly=True,
            samesite="strict",
            secure=is_secure,
        )
        return answer

    @router.post("/logout")
    def logout() -> Any:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    files = {name: File(__file__).with_name(name).read_bytes() for name in STATIC}

    @router.get("/static/{name}")
    def static(name: Literal["style.css", "script.js", "icon.svg"]) -> Any:
        return Response(files[name], media_type=STATIC[name], headers={"Cache-Control": "no-cache"})

    return router

"""The API under /api/v1."""

import asyncio
import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import UploadFile

from fastad.data.images import ImageError
from fastad.serve.exporting import labelled_archive, table
from fastad.serve.inspection import Busy, Given, Job, Taken
from fastad.serve.pictures import SUFFIXES, TYPES, heatmap, kind_and_shape, shown
from fastad.serve.schemas import (
    Calibrate,
    Changed,
    DetectorOut,
    Label,
    Predicted,
    Problem,
    ResultOut,
    Results,
    Threshold,
    Verdict,
    iso,
    result_out,
)
from fastad.serve.service import Service
from fastad.serve.settings import Settings
from fastad.serve.store import Filters
from fastad.serve.tables import Result

AT_ONCE = 2**18  # bytes of images whose headers are read sooner than a thread is woken
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGES = {"type": "array", "items": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "required": True,
        "description": "One image as the body, or one or many as the fields `images` of a form.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": IMAGES},
                    "required": ["images"],
                }
            },
            **{kind: BINARY for kind in (*TYPES.values(), "application/octet-stream")},
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 403, 404, 409, 413, 422, 429, 503)
}
NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str | None, Query(max_length=200, pattern=NO_CONTROLS)]
Number = Annotated[int, Path(ge=1, lt=2**31)]
DetectorName = Annotated[str, Path(max_length=200)]
Seconds = Annotated[float | None, Query(ge=0, le=1e11, description="Seconds since 1970, UTC.")]


def filters(
    detector: Name = None,
    camera: Name = None,
    verdict: Verdict | None = None,
    label: Literal["good", "defect", "none"] | None = None,
    since: Seconds = None,
    until: Seconds = None,
) -> Filters:
    """The filters of a list of results."""
    return Filters(detector, camera, verdict, label, since, until)


Asked = Annotated[Filters, Depends(filters)]


def found(result: Result | None) -> Result:
    """A result, or a 404."""
    if result is None:
        raise HTTPException(404, "there is no such result")
    return result


async def sent_files(request: Request, settings: Settings) -> list[tuple[str, bytes]]:
    """Names and bytes of the images of a request, one or more."""
    kind = request.headers.get("content-type", "")
    contents: list[tuple[str, bytes]] = []
    if kind.startswith("multipart/form-data"):
        async with request.form(max_files=settings.max_images, max_fields=16) as form:
            files = [part for name, part in form.multi_items() if name == "images"]
            if not all(isinstance(part, UploadFile) for part in files):
                raise HTTPException(422, "images: each must be a file")
            for part in files:
                assert isinstance(part, UploadFile)
                contents.append((part.filename or "", await part.read()))
    else:
        contents.append(("", await request.body()))
    if not contents:
        raise HTTPException(422, "there are no images in the fields `images`")
    return contents


def refusal(index: int, error: object) -> str:
    """Why an image of a request was not judged. Readers call bytes by their type."""
    return f"image {index + 1}: {re.sub(r'^(BytesIO|bytes): ', '', str(error))}"


def looked_at(
    settings: Settings, contents: list[tuple[str, bytes]], key: str | None
) -> list[Given]:
    """Images by their names and bytes. HTTPException where one is no image or too large."""
    given = []
    for i, (name, content) in enumerate(contents):
        name = re.split(r"[/\\]", name)[-1]
        name = "".join(c for c in name if c.isprintable())[:120]
        try:
            form_of, height, width = kind_and_shape(content)
        except ImageError as error:
            raise HTTPException(422, refusal(i, error)) from None
        if height * width > settings.max_pixels:
            limit = f"more than {settings.max_pixels} pixels"
            raise HTTPException(413, f"image {i + 1}: {height}x{width} is {limit}")
        given.append(Given(content, form_of, name, None if key is None else f"{key}/{i}"))
    return given


async def inspected(
    service: Service, request: Request, detector: str | None, camera: str, key: str | None
) -> list[Result | Exception]:
    """Predict the images of a request and keep the results. HTTPException where that cannot be."""
    try:
        name = service.detectors.get(detector).name
    except LookupError as error:
        raise HTTPException(404, str(error.args[0])) from None
    contents = await sent_files(request, service.settings)
    asked = (service.settings, contents, key)
    if sum(len(content) for _, content in contents) > AT_ONCE:
        images = await asyncio.to_thread(looked_at, *asked)
    else:
        images = looked_at(*asked)
    try:
        answer = service.inspection.submit(Job(name, camera, images, has_one_key=True))
        return await asyncio.wrap_future(answer)
    except Taken as error:
        raise HTTPException(409, str(error)) from None
    except Busy as error:
        headers = {"Retry-After": str(error.seconds)}
        raise HTTPException(503, str(error), headers=headers) from None
    except Exception as error:
        text = str(error) or type(error).__name__
        raise HTTPException(503, text, headers={"Retry-After": "5"}) from None


def api(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/v1", responses=PROBLEMS)
    store = service.store

    @router.post("/predict", openapi_extra=BODY, response_model=Predicted)
    async def predict(
        request: Request,
        detector: Name = None,
        camera: Annotated[str, Query(max_length=200, pattern=NO_CONTROLS)] = "",
    ) -> Any:
        """Judge one image or many, and keep the results.

        Images of one camera are judged in the order in which they come. A header
        `Idempotency-Key` makes a request safe to repeat: it is judged and kept once.
        """
        key = request.headers.get("idempotency-key")
        if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,100}", key):
            raise HTTPException(422, "Idempotency-Key: 1 to 100 visible ASCII characters")
        answers = await inspected(service, request, detector, camera, key)
        if all(isinstance(one, Exception) for one in answers):
            raise HTTPException(422, refusal(0, answers[0]))
        return {
            "results": [
                result_out(one)
                if isinstance(one, Result)
                else {"name": "", "error": refusal(i, one)}
                for i, one in enumerate(answers)
            ]
        }

    @router.get("/results", response_model=Results)
    def results(
        request: Request,
        asked: Asked,
        before: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> Any:
        """Results, the newest first."""
        rows, total = store.page(asked, before=before, limit=limit)
        following = None
        if len(rows) == limit:
            following = (
                f"/api/v1/results?{request.url.include_query_params(before=rows[-1].id).query}"
            )
        return {"total": total, "results": [result_out(one) for one in rows], "next": following}

    @router.get("/results.csv", response_class=StreamingResponse)
    def results_csv(asked: Asked) -> Any:
        """Results as a table, the oldest first."""
        headers = {"Content-Disposition": 'attachment; filename="results.csv"'}
        rows = table(store.every(asked))
        return StreamingResponse(rows, media_type="text/csv; charset=utf-8", headers=headers)

    @router.get("/results/{number}", response_model=ResultOut)
    def result(number: Number) -> Any:
        """One result."""
        return result_out(found(store.result(number)))

    @router.get("/results/{number}/{kind}", response_class=Response)
    def picture(
        number: Number, kind: Literal["image", "shown", "thumbnail", "heatmap", "mask"]
    ) -> Any:
        """A picture of a result.

        `image` is the file that came. `shown` and `thumbnail` are JPEG. `heatmap` is a PNG in
        colour, clear where nothing is anomalous. `mask` is black and white.
        """
        one = found(store.result(number))
        if kind in ("heatmap", "mask"):
            drawing = store.drawing(number)
            content = None if drawing is None else drawing.mask
            if kind == "heatmap" and drawing is not None:
                content = heatmap(drawing.anomaly_map)
            if content is None:
                raise HTTPException(404, "the detector has no pixel threshold: there is no mask")
            return Response(content, media_type="image/png", headers=FOREVER)
        content, form_of = store.content(one.image)
        if kind == "image":
            name = f"{one.id}{SUFFIXES.get(form_of, '')}"
            headers = FOREVER | {"Content-Disposition": f'inline; filename="{name}"'}
            return Response(content, media_type=TYPES.get(form_of), headers=headers)
        side = {"side": 240} if kind == "thumbnail" else {}
        return Response(shown(content, **side), media_type="image/jpeg", headers=FOREVER)

    @router.put("/results/{number}/label", response_model=ResultOut)
    def label_result(number: Number, body: Label) -> Any:
        """Say whether an image is good or shows a defect."""
        return result_out(found(store.label(number, body.label)))

    @router.post("/labels/undo", response_model=ResultOut)
    def undo() -> Any:
        """Take the last label back."""
        result = store.undo()
        if result is None:
            raise HTTPException(409, "there is nothing to undo")
        return result_out(result)

    @router.get("/detectors", response_model=list[DetectorOut])
    def detectors() -> Any:
        """The detectors in use."""
        return [service.summary(live) for live in service.detectors]

    @router.get("/detectors/{name}/drift")
    def drift(name: DetectorName) -> dict[str, Any]:
        """Whether images are still like those of the calibration."""
        report = _live(name).drift()
        if report is None:
            return {"is_drift": False, "message": "nothing is known yet", "images": 0}
        return report.to_dict()

    @router.get("/detectors/{name}/versions")
    def versions(name: DetectorName) -> list[dict[str, Any]]:
        """The files of a detector, the newest first."""
        _live(name)
        return [
            {"id": v.id, "time": iso(v.time), "note": v.note, "is_active": v.is_active}
            for v in store.versions(name)
        ]

    @router.post("/detectors/{name}/calibrate", response_model=Changed)
    def calibrate(name: DetectorName, body: Calibrate) -> Any:
        """Take thresholds from the images labelled good, into a new file."""
        _live(name)
        message = _tried(service.detectors.calibrate, name, body.false_positive_rate)
        return {"detector": service.summary(_live(name)), "message": message}

    @router.post("/detectors/{name}/threshold", response_model=Changed)
    def threshold(name: DetectorName, body: Threshold) -> Any:
        """Judge by another threshold from now on, in a new file."""
        _live(name)
        _tried(service.detectors.set_threshold, name, body.value)
        return {"detector": service.summary(_live(name)), "message": "the threshold is set"}

    @router.post("/detectors/{name}/versions/{number}", response_model=Changed)
    def use(name: DetectorName, number: Number) -> Any:
        """Go back to a file that was in use before."""
        _live(name)
        _tried(service.detectors.use, name, number)
        return {"detector": service.summary(_live(name)), "message": f"version {number} is in use"}

    @router.get("/export/labelled.zip", response_class=StreamingResponse)
    def labelled(detector: Name = None) -> Any:
        """The labelled images as a folder that `fastad train` and `fastad evaluate` read."""
        headers = {"Content-Disposition": 'attachment; filename="labelled.zip"'}
        archive = labelled_archive(store, detector)
        return StreamingResponse(archive, media_type="application/zip", headers=headers)

    def _live(name: str) -> Any:
        try:
            return service.detectors.get(name)
        except LookupError as error:
            raise HTTPException(404, str(error.args[0])) from None

    return router


def _tried(work: Any, *arguments: Any) -> Any:
    """What a change of a detector gives. HTTPException where it cannot be made."""
    try:
        return work(*arguments)
    except LookupError as error:
        raise HTTPException(404, str(error.args[0])) from None
    except (ValueError, OSError) as error:
        raise HTTPException(409, str(error)) from None

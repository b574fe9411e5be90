"""The app for programs: films by HTTP, answers as JSON, figures for Prometheus; `/v1/docs` describes it."""

import asyncio
import secrets
import time
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, BaseRoute, Mount
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field

from pneumo_hf import DISCLAIMER, __version__
from pneumo_hf.app.answers import Answers
from pneumo_hf.app.films import explain_content
from pneumo_hf.errors import InputError
from pneumo_hf.inference.onnx import weights_digest
from pneumo_hf.inference.scorer import Scorer

ABOUT: dict[str, Any] = {"title": "pneumo_hf", "version": __version__, "description": DISCLAIMER}
STATIC = "/docs-files"  # script and style of /v1/docs
MOST_FILMS = 64  # of one request
MOST_WAITING = 512  # films of all requests; more are asked to come again
MOST_REQUESTS = 256  # at once
LARGEST_BODY = 200_000_000  # bytes of a request
MOST_HELD = 1_000_000_000  # bytes of all requests at once
TOO_LARGE = f"a request has at most {LARGEST_BODY // 10**6} MB"
TOO_MANY = "too much is waiting to be answered: send this again"
LATER = {"Retry-After": "2"}
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # upper ends of the histogram of latencies


class Film(BaseModel):
    """The answer to one film; without a probability where it could not be read or is no chest film."""

    name: str = Field(description="the file's name, as it was sent")
    probability: float | None = Field(description="calibrated P(PNEUMONIA), or of any label but NORMAL; 0 to 1")
    prediction: str | None
    flag: str | None = Field(description="review, abstain, not_chest_xray, or empty")
    error: str = Field(description="why there is no answer; else empty")


class Scores(BaseModel):
    """The answers to a request's films, in their order."""

    request_id: str
    model: str
    model_version: str = Field(description="a digest of the weights: other weights, another version")
    operating_point: str
    threshold: float = Field(description="a probability at or above it is flagged")
    films: list[Film]
    notice: str


class Refusal(BaseModel):
    """Why a request was not answered."""

    request_id: str
    error: str


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "a body that cannot be read"},
    401: {"model": Refusal, "description": "no token, or a wrong one"},
    413: {"model": Refusal, "description": f"more than {LARGEST_BODY // 10**6} MB, or more than {MOST_FILMS} films"},
    415: {"model": Refusal, "description": "not multipart/form-data"},
    422: {"model": Refusal, "description": "no film, no such operating point, or a film that cannot be explained"},
    429: {"model": Refusal, "description": "too much is waiting; Retry-After says when to come again"},
}


def make_routes(predictor: Scorer, answers: Answers) -> list[BaseRoute]:
    """Make `/v1`, `/health` and `/metrics`; who may ask is decided before them (`interface.Guard`)."""
    figures = Figures()

    async def health(_: Request) -> Response:
        ready = answers.ready
        about = {"status": "ok" if ready else "starting", "ready": ready, "model": Path(predictor.name).name}
        return JSONResponse(about, 200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    return [
        APIRoute("/health", health),
        APIRoute("/metrics", metrics),
        Mount("/v1", make_api(predictor, answers, figures)),
    ]


class Figures:
    """What Prometheus reads; no label of it names a film, a file or a caller."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "pneumo_hf_request_seconds",
            "Time to an answer",
            ["path", "status"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.films = Counter("pneumo_hf_films", "Films answered, by flag", ["flag"], registry=self.registry)
        self.waiting = Gauge("pneumo_hf_films_waiting", "Films that are being answered", registry=self.registry)


class InThreads:
    """Answers to all films of a request, in threads of their own, or to none where too many wait already."""

    def __init__(self, figures: Figures):
        self.threads, self.waiting, self.figures = ThreadPoolExecutor(MOST_FILMS, "films"), 0, figures

    async def __call__(self, function: Callable, films: Sequence[tuple]) -> list:
        if self.waiting + len(films) > MOST_WAITING:
            raise HTTPException(429, TOO_MANY, LATER)
        loop = asyncio.get_running_loop()
        self._count(len(films))
        try:
            return await asyncio.gather(*(loop.run_in_executor(self.threads, function, *film) for film in films))
        finally:
            self._count(-len(films))

    def _count(self, more: int) -> None:
        self.waiting += more
        self.figures.waiting.set(self.waiting)


def make_api(predictor: Scorer, answers: Answers, figures: Figures) -> FastAPI:
    """Make the application that is mounted at `/v1`."""
    token = Depends(HTTPBearer(auto_error=False))  # for the description: `Guard` asks for it
    api = FastAPIOffline(redoc_url=None, static_url=STATIC, dependencies=[token], **ABOUT)
    answer_all, name = InThreads(figures), Path(predictor.name).name
    version = "-".join(weights_digest(member.model)[:12] for member in predictor.members)

    @api.post("/score", responses=REFUSALS)
    async def score(
        request: Request,
        files: Annotated[list[UploadFile], File(description="PNG, JPEG, TIFF, WebP or DICOM")],
        operating_point: Annotated[str, Form(description="one of the model's by name; empty for its own")] = "",
    ) -> Scores:
        """Score chest films: the probability, the decision at an operating point, and whether to trust it."""
        if len(files) > MOST_FILMS:
            raise HTTPException(413, f"{len(files)} films in one request, and {MOST_FILMS} are the most")
        point = answers.point(operating_point)
        rows = await answer_all(lambda file: answers(file.file.read(), point), [(file,) for file in files])
        for row in rows:
            figures.films.labels(row["flag"] or ("unread" if row["probability"] is None else "none")).inc()
        return Scores(
            request_id=request.state.id,
            model=name,
            model_version=version,
            operating_point=point,
            threshold=answers.thresholds[point],
            films=[Film(name=file.filename or "", **_of_film(row)) for file, row in zip(files, rows, strict=True)],
            notice=DISCLAIMER,
        )

    @api.post("/explain", responses=REFUSALS | {200: {"content": {"image/png": {}}}}, response_class=Response)
    async def explain(
        file: Annotated[UploadFile, File(description="PNG, JPEG, TIFF, WebP or DICOM")],
        opacity: Annotated[
            float, Form(ge=0, le=1, description="of the heatmap; 0 gives the film as it is read")
        ] = 0.5,
    ) -> Response:
        """Lay the Grad-CAM heatmap over a film: a PNG picture."""
        (picture,) = await answer_all(explain_content, [(predictor, await file.read(), opacity)])
        return Response(picture, media_type="image/png")

    _add_errors(api)
    api.add_middleware(Bounded, figures=figures)
    return api


def _of_film(row: dict) -> dict:
    return {key: row[key] for key in ("probability", "prediction", "flag", "error")}


def _add_errors(api: FastAPI) -> None:
    """Answer every refusal in JSON, with the request's id."""

    def refuse(request: Request, error: Any) -> Response:
        return refusal(request.state.id, error.status_code, str(error.detail), error.headers)

    for kind in (HTTPException, 400, 404, 405):  # the last three are Starlette's: of a damaged form, and of the router
        api.add_exception_handler(kind, refuse)

    @api.exception_handler(Exception)
    def failed(request: Request, _: Exception) -> Response:
        return refusal(request.state.id, 500, "this failed here: the app's log names the kind of error")

    @api.exception_handler(InputError)
    def cannot(request: Request, error: InputError) -> Response:
        return refusal(request.state.id, 422, str(error))

    @api.exception_handler(RequestValidationError)
    def misses(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            return refusal(request.state.id, 415, "send the films as multipart/form-data: curl -F files=@film.jpeg")
        said = "; ".join(f"{'.'.join(map(str, part['loc'][1:]))}: {part['msg']}" for part in error.errors()[:3])
        return refusal(request.state.id, 422, said)


def refusal(request_id: str, status: int, words: str, headers: Any = None) -> JSONResponse:
    """Make the answer to a request that is refused."""
    return JSONResponse({"request_id": request_id, "error": words}, status, headers)


class Bounded:
    """Gives each request an id, refuses what is too much before it is read, and measures the time taken."""

    def __init__(self, app: Callable, figures: Figures):
        self.app, self.figures = app, figures
        self.requests = self.held = 0

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope.setdefault("state", {})["id"] = secrets.token_hex(8)
        start, seen, status = time.perf_counter(), 0, 500

        async def counted() -> dict:
            nonlocal seen
            message = await receive()
            size = len(message.get("body", b""))
            seen, self.held = seen + size, self.held + size
            if seen > LARGEST_BODY:
                raise HTTPException(413, TOO_LARGE)
            if self.held > MOST_HELD:
                raise HTTPException(429, TOO_MANY, LATER)
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self.requests += 1
        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > LARGEST_BODY:
                await refusal(scope["state"]["id"], 413, TOO_LARGE)(scope, receive, noted)
            elif self.requests > MOST_REQUESTS:
                await refusal(scope["state"]["id"], 429, TOO_MANY, LATER)(scope, receive, noted)
            else:
                await self.app(scope, counted, noted)
        finally:
            self.requests, self.held = self.requests - 1, self.held - seen
            path = scope["path"].rsplit("/", 1)[-1]
            path = path if path in ("score", "explain") else "other"  # never what a caller wrote
            self.figures.latency.labels(path, str(status)).observe(time.perf_counter() - start)

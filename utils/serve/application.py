"""The page's HTTP application: the page itself, `/v1/...` for it and for programs, and the guards around both."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from utils.class_choice import class_ids
from utils.config import PredictOptions
from utils.config.heatmap_options import CAM_METHODS, DEFAULT_METHOD
from utils.errors import UserError, nearest
from utils.log import without_controls
from utils.runtimes.metadata import PROJECT_VERSION
from utils.serve.answers import (
    DetectedImage,
    HeatMapImage,
    ModelInfo,
    RefusedRequest,
    image_result,
    model_info,
)
from utils.serve.clips import ClipShelf, detect_clip
from utils.serve.heat_overlay import heat_overlay
from utils.serve.network_worker import NetworkWorker
from utils.serve.serve_options import ServeConfig
from utils.serve.served_models import ServedModel, ServedModels
from utils.serve.uploads import UploadError, decode_upload

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": RefusedRequest} for status in (400, 403, 404, 413, 415, 422, 503)
}

ModelName = Annotated[str, Query(description="a name of /v1/models; empty takes the first")]
Confidence = Annotated[float, Query(ge=0, le=1, description="least confidence of a detection")]
Overlap = Annotated[float, Query(ge=0, le=1, description="IoU above which the weaker of two boxes is dropped")]
Side = Annotated[int | None, Query(ge=32, le=4096, description="side of the network's input in pixels")]


@dataclass
class DetectionQuery:
    """What a request says about detection, besides the image or clip: its query."""

    model: ModelName = ""
    conf: Confidence = 0.25
    iou: Overlap = 0.45
    imgsz: Side = None
    max_det: Annotated[int, Query(ge=1, le=3000, description="most detections per image")] = 1000
    classes: Annotated[str, Query(description="ids or names to keep, separated by commas; empty keeps all")] = ""

    def options(self, model: ServedModel) -> PredictOptions:
        """Return how frames are predicted. Raises ConfigError for a class that the model does not know."""
        words = [word.strip() for word in self.classes.split(",") if word.strip()]
        return PredictOptions(
            self.imgsz, self.conf, self.iou, self.max_det, class_ids(words or None, model.predictor.names)
        )


def build_application(models: ServedModels, config: ServeConfig) -> FastAPI:
    """Return the application.

    Args:
        models: What it offers.
        config: Its limits.

    Returns:
        An ASGI application; its thread of networks runs from startup to shutdown.
    """
    worker = NetworkWorker(config.batch_size, config.batch_wait / 1000, config.max_waiting)
    shelf = ClipShelf()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with worker, shelf:
            yield

    app = FastAPI(
        title="Detection",
        version=PROJECT_VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_PROBLEMS,
        dependencies=[Depends(_refuse_unknown_parameters)],
    )
    app.state.is_ending = lambda: False  # the server knows
    _add_page(app)
    _add_detection(app, models, worker, config)
    _add_heat_maps(app, models, worker, config)
    _add_clips(app, models, worker, shelf, config)
    _add_problems(app)
    app.add_middleware(Guard, hosts=_allowed_hosts(config), most_bytes=int(config.max_upload * 1e6))
    return app


def _refuse_unknown_parameters(request: Request) -> None:
    """Refuse a query with a parameter that the interface does not describe: a misspelled one would change nothing."""
    described = request.app.openapi()["paths"].get(request.scope["route"].path, {}).get(request.method.lower(), {})
    known = {each["name"] for each in described.get("parameters", ()) if each["in"] == "query"}
    for name in request.query_params:
        if described and name not in known:
            raise UploadError(f"{name[:60]}: no such parameter{nearest(name, known)}", 422)


def _add_page(app: FastAPI) -> None:
    """Add the page's own files: a fixed list, so no path of a request is ever opened."""
    for address, (name, kind) in _FILES.items():
        content = (PAGE / name).read_bytes()
        app.add_api_route(
            address, _constant(content, kind), include_in_schema=False, methods=["GET", "HEAD"], response_class=Response
        )


def _constant(content: bytes, kind: str) -> Callable[[], Any]:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


def _add_detection(app: FastAPI, models: ServedModels, worker: NetworkWorker, config: ServeConfig) -> None:
    @app.get("/v1/models", summary="The models that can be chosen")
    async def list_models() -> list[ModelInfo]:
        return [model_info(model) for model in models]

    @app.post("/v1/detect", summary="Detect objects in one image, sent as the body", openapi_extra=_IMAGE_BODY)
    async def detect(request: Request, query: Annotated[DetectionQuery, Depends()]) -> DetectedImage:
        served = models.of(query.model)
        options = query.options(served)
        raw = await request.body()
        image = await anyio.to_thread.run_sync(decode_upload, raw, config.max_pixels)
        future = await anyio.to_thread.run_sync(worker.detect, served.predictor, image, options)
        answer = await asyncio.wrap_future(future)
        return image_result(served, image.shape, answer)


def _add_heat_maps(app: FastAPI, models: ServedModels, worker: NetworkWorker, config: ServeConfig) -> None:
    @app.post(
        "/v1/heatmap", summary="What one detection in an image depends on, sent as the body", openapi_extra=_IMAGE_BODY
    )
    async def heat_map(
        request: Request,
        model: ModelName = "",
        method: Annotated[str, Query(description=", ".join(CAM_METHODS))] = DEFAULT_METHOD,
        layer: Annotated[str, Query(description="index, name or path of a layer; empty takes the default")] = "",
        box: Annotated[int, Query(ge=1, description="which detection, 1 being the most confident")] = 1,
        conf: Confidence = 0.25,
        iou: Overlap = 0.45,
        imgsz: Side = None,
    ) -> HeatMapImage:
        served = models.of(model)
        raw = await request.body()
        image = await anyio.to_thread.run_sync(decode_upload, raw, config.max_pixels)
        options = PredictOptions(imgsz, conf, iou)
        work = partial(heat_overlay, served, image, options, method, layer, box)
        return await asyncio.wrap_future(worker.call(work))


def _add_clips(
    app: FastAPI, models: ServedModels, worker: NetworkWorker, shelf: ClipShelf, config: ServeConfig
) -> None:
    @app.post(
        "/v1/clip",
        summary="Detect objects in a clip, sent as the body: one line of JSON per frame as soon as it is there",
        response_class=StreamingResponse,
        openapi_extra=_IMAGE_BODY,
    )
    async def clip(request: Request, query: Annotated[DetectionQuery, Depends()]) -> StreamingResponse:
        served = models.of(query.model)
        options = query.options(served)
        raw = await request.body()
        lines = detect_clip(raw, served, options, worker, shelf, config)
        first = await anyio.to_thread.run_sync(next, lines, None)  # what is wrong with the clip is an answer of its own

        def all_lines():
            if first is not None:
                yield json.dumps(first) + "\n"
            try:
                for line in lines:
                    if request.app.state.is_ending():
                        yield (
                            json.dumps({"error": "the server was told to end: the rest of the clip is left out"}) + "\n"
                        )
                        return
                    yield json.dumps(line) + "\n"
            except UserError as error:  # the status is sent already
                yield json.dumps({"error": str(error)}) + "\n"

        return StreamingResponse(all_lines(), media_type="application/x-ndjson")

    @app.get("/v1/clips/{token}", summary="An annotated clip that /v1/clip named", response_class=FileResponse)
    async def annotated(token: str) -> FileResponse:
        path = shelf.find(token)
        if path is None:
            raise UploadError("no such clip: annotated clips are kept for some minutes only", 404)
        return FileResponse(path, media_type="video/webm", filename="annotated.webm", content_disposition_type="inline")


def _add_problems(app: FastAPI) -> None:
    """Answer every error with one line of JSON."""

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> JSONResponse:
        status = error.status if isinstance(error, UploadError) else 422
        return problem(str(error), status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return problem(f"{first['loc'][-1]}: {first['msg'].lower()}", 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return problem("the sender is gone", 400)  # nobody reads it

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return problem(f"the server failed: {type(error).__name__}; its log has more", 500)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return problem(str(error.detail).lower(), error.status_code)


def problem(message: str, status: int) -> JSONResponse:
    """Return the answer to a request that cannot be answered.

    Args:
        message: One line.
        status: The HTTP status.

    Returns:
        JSON with the key "error".
    """
    headers = {"Retry-After": "2"} if status == 503 else None
    return JSONResponse({"error": without_controls(" ".join(message.split()))}, status, headers)


def _allowed_hosts(config: ServeConfig) -> frozenset[str]:
    """Return the names under which browsers may ask; empty: any, if the page listens on every address."""
    if config.host in ("0.0.0.0", "::", ""):
        return frozenset(name.lower() for name in config.allow_host)
    own = (
        {"127.0.0.1", "localhost", "::1"} if config.host in ("127.0.0.1", "localhost", "::1") else {config.host.lower()}
    )
    return frozenset(own | {name.lower() for name in config.allow_host})


class Guard:
    """Refuses what a page of another site, or one that took over a name, would send; and what is too large.

    Args:
        app: The application behind it.
        hosts: Names that the Host header may have; empty allows any.
        most_bytes: Largest body.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], most_bytes: int):
        self._app, self._hosts, self._most_bytes = app, hosts, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        refusal = self._refusal(scope["method"], headers)
        if refusal:
            await refusal(scope, receive, send_with_headers)
            return
        taken = 0

        async def receive_limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most_bytes:
                raise UploadError(self._too_large(), 413)
            return message

        await self._app(scope, receive_limited, send_with_headers)

    def _refusal(self, method: str, headers: dict[str, str]) -> JSONResponse | None:
        host = headers.get("host", "")
        if self._hosts and _name_of(host) not in self._hosts:
            return problem(f"this page is not served under the name {host[:100]!r}; see --allow-host", 403)
        origin = headers.get("origin", "")
        if method not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != host:
            return problem("requests of other sites are refused", 403)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:19]) > self._most_bytes:
            return problem(self._too_large(), 413)
        return None

    def _too_large(self) -> str:
        return f"the upload is larger than {self._most_bytes / 1e6:g} MB; see --max-upload"


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    return (urlsplit(f"//{host}").hostname or "").lower()

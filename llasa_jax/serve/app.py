"""The application: its routes, and errors in one shape."""

import contextlib
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp

from llasa_jax import __version__
from llasa_jax.config.serve import ServeConfig
from llasa_jax.serve.desk import MOST_VOICES, Desk, speech
from llasa_jax.serve.errors import ApiError
from llasa_jax.serve.gate import Gate
from llasa_jax.serve.requests import SearchRequest, SpeechRequest
from llasa_jax.serve.speaking import Speaking
from llasa_jax.serve.studio import Studio

VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
ERROR = {"description": "An error", "content": {"application/json": {"schema": {"type": "object"}}}}
ERRORS = {code: ERROR for code in (400, 401, 403, 404, 408, 413, 422, 429, 500, 503)}


def make_app(studio: Studio, config: ServeConfig) -> ASGIApp:
    """The ASGI application; its lifespan starts and stops the model's thread."""
    desk = Desk(studio, config)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.worker.start()
        yield
        desk.close()

    app = FastAPI(
        title="llasa_jax",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses=ERRORS,
    )
    started = int(time.time())

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        named = [part for part in first["loc"][1:] if first["type"] != "json_invalid"]
        where = ".".join(str(part)[:64] for part in named) or None
        reason = first["msg"] if where is None else f"{where}: {first['msg']}"
        return ApiError(400, reason[:500], param=where).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed; its log says why", code="server").response()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        html, policy = _page()
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = desk.worker.is_alive()
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        about = {"id": studio.name, "object": "model", "created": started, "owned_by": "llasa_jax"}
        return JSONResponse({"object": "list", "data": [about]})

    @app.get("/v1/models/{model}")
    async def model(model: str) -> JSONResponse:
        if model != studio.name:
            raise ApiError(404, f"model: there is {studio.name}", code="model_not_found")
        about = {"id": studio.name, "object": "model", "created": started, "owned_by": "llasa_jax"}
        return JSONResponse(about)

    @app.get("/v1/audio/voices")
    async def voices() -> JSONResponse:
        found = desk.voices
        details = [
            {"name": name, "text": one.text, "consent": one.consent, "added": name in desk.added}
            for name, one in found.items()
        ]
        usual = {"voices": list(found), "default": studio.usual}
        return JSONResponse(usual | {"details": details})

    @app.post("/v1/audio/voices")
    def add_voice(
        name: Annotated[str, Form(max_length=40)],
        audio_sample: Annotated[UploadFile, File()],
        ref_text: Annotated[str, Form(max_length=300)] = "",
        consent: Annotated[str, Form(max_length=100)] = "",
    ) -> JSONResponse:
        if not VOICE_NAME.fullmatch(name):
            raise ApiError(400, "name: letters, digits, - and _, at most 40", param="name")
        if name in desk.voices:
            raise ApiError(409, "name: there is a voice of that name", param="name")
        if len(desk.added) >= MOST_VOICES:
            raise ApiError(409, f"there are {MOST_VOICES} voices already; remove one")
        agreed = consent.strip().lower() == "true"
        desk.added[name] = desk.clone(audio_sample.file.read(), ref_text, agreed, name)
        return JSONResponse({"success": True, "voice": {"name": name}})

    @app.delete("/v1/audio/voices/{name}")
    async def remove_voice(name: str) -> JSONResponse:
        if desk.added.pop(name, None) is None:
            raise ApiError(404, "no voice of that name was added here", code="voice_not_found")
        return JSONResponse({"success": True})

    @app.post("/v1/audio/speech", response_class=Response)
    async def say(request: Request, asked: SpeechRequest) -> Response:
        return await desk.speak(request, asked, *speech(asked))

    @app.post("/v1/audio/search", response_class=Response)
    async def search(request: Request, asked: SearchRequest) -> Response:
        return await desk.speak(request, asked, Speaking.search, "application/x-ndjson", False)

    def count(route: str, status: int) -> None:
        desk.metrics.requests.labels(route, status).inc()

    return Gate(app, (config.host, *config.names), config.keys, count)


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script, and nothing of anybody else."""
    html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    def own(tag: str) -> str:
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        return f"'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; "
        "connect-src 'self'; media-src blob:; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy

"""Where requests are taken on, spoken, and let go: bounds, time-outs, and clients who leave."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llasa_jax.audio.encode import FORMATS
from llasa_jax.config.serve import ServeConfig
from llasa_jax.errors import UserError
from llasa_jax.search.continuous import TakeFailed
from llasa_jax.serve.errors import ApiError
from llasa_jax.serve.metrics import Metrics
from llasa_jax.serve.requests import SpeechRequest, SpokenRequest, recording
from llasa_jax.serve.speaking import Items, Speaking, Wish, events, failure
from llasa_jax.serve.studio import Studio
from llasa_jax.serve.worker import Cancelled, Worker

MOST_VOICES = 100  # that clients add
ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")  # names that clients are fixed to


class Desk:
    """The server's state: its worker, its voices, and who is being spoken for."""

    def __init__(self, studio: Studio, config: ServeConfig):
        self.studio, self.config = studio, config
        self.worker = Worker(studio.engine, config.slots)
        self.metrics = Metrics(lambda: self.worker.drawing)
        self.added: dict[str, Any] = {}  # voices of clients
        self._most = config.slots + config.queue
        self.threads = ThreadPoolExecutor(self._most, "request")
        self._cloning = threading.Lock()
        self._active = 0
        self._usual_seconds = 1.0  # of a request, lately

    def close(self) -> None:
        self.worker.stop()
        self.threads.shutdown(wait=False, cancel_futures=True)

    @property
    def voices(self) -> dict[str, Any]:
        return dict(self.studio.voices) | self.added

    def clone(self, data: bytes, text: str | None, consent: bool, name: str) -> Any:
        """The voice of a recording.

        Raises:
            ApiError: without text or consent, or if it cannot be used.
        """
        if not consent:
            reason = "a voice is a person's own: ask, then say so with consent=true"
            raise ApiError(400, reason, param="consent", code="consent_required")
        if not (text or "").strip():
            raise ApiError(400, "ref_text: what does the recording say?", param="ref_text")
        try:
            with self._cloning:
                return self.studio.clone(data, text, name)
        except UserError as error:
            raise ApiError(400, str(error), param="ref_audio") from None

    def wish(self, asked: SpokenRequest) -> Wish:
        """What is asked for, checked; in a request's thread, for it may clone a voice."""
        if asked.model not in (None, self.studio.name, *ALIASES):
            reason = f"model: there is {self.studio.name}"
            raise ApiError(404, reason, param="model", code="model_not_found")
        streamed = isinstance(asked, SpeechRequest) and streams(asked)
        count = asked.candidates or (1 if streamed else self.config.candidates)
        if streamed and (count > 1 or asked.strategy != "best-of"):
            reason = "candidates: a stream is of one take; ask without stream to choose among some"
            raise ApiError(400, reason, param="candidates")
        voice = self._voice(asked)
        try:
            pieces = list(self.studio.pieces(asked.input, voice))
            for piece in pieces:
                self.studio.task(piece.text, voice)  # whether it can be spoken
        except UserError as error:
            raise ApiError(400, str(error), param="input") from None
        sequential = asked.strategy == "sequential"
        format = asked.response_format
        return Wish(pieces, voice, asked.seed, count, sequential, format, asked.speed)

    def _voice(self, asked: SpokenRequest) -> Any:
        name, param = asked.voice, "voice"
        name = name if name is None or isinstance(name, str) else name.id
        if asked.ref_audio is not None:
            data = recording(asked.ref_audio)
            if data is not None:
                return self.clone(data, asked.ref_text, asked.consent, "ref_audio")
            name, param = asked.ref_audio, "ref_audio"
        voices = self.voices
        name = self.studio.usual if name is None else name
        if name not in voices:
            known = ", ".join(voices)
            reason = f"{param}: no voice of that name, there are: {known}"
            raise ApiError(400, reason, param=param, code="voice_not_found")
        return voices[name]

    async def speak(
        self,
        request: Request,
        asked: SpokenRequest,
        how: Callable[[Speaking], Iterator[bytes]],
        media_type: str,
        whole: bool,
    ) -> Response:
        """Takes a request on and answers with its first bytes, or why there are none.

        Args:
            how: of `Speaking` gives the bytes.
            whole: whether they are one file.

        Raises:
            ApiError: too many are waiting, it cannot be spoken, or its time is over.
        """
        if self._active >= self._most:
            wait = math.ceil(min(60.0, max(1.0, self._usual_seconds)))
            raise ApiError(
                429,
                f"{self._active} requests are being served; come again in {wait} s",
                code="queue_full",
                headers={"Retry-After": str(wait)},
            )
        visit = Visit(self, request.receive, asked, how)
        first = await visit.next()
        if first is None:  # nobody is there to be answered
            return Response(status_code=499)
        if whole:
            await visit.end()
            return Response(first, media_type=media_type)
        return Sound(visit, first, media_type)

    def begins(self) -> None:
        self._active += 1
        self.metrics.active.inc()

    def ends(self, seconds: float, spoken: float) -> None:
        self._active -= 1
        self.metrics.active.dec()
        self.metrics.whole.observe(seconds)
        self.metrics.audio.inc(spoken)
        self._usual_seconds += 0.1 * (seconds - self._usual_seconds)


class Visit:
    """One request from its coming to its end, whichever that is."""

    def __init__(
        self,
        desk: Desk,
        receive: Receive,
        asked: SpokenRequest,
        how: Callable[[Speaking], Iterator[bytes]],
    ):
        self._desk, self._asked, self._how = desk, asked, how
        self._start = time.monotonic()
        self._speaking: Speaking | None = None
        self._gone = False
        self._first = True
        desk.begins()
        self._leaves = asyncio.ensure_future(_leaves(receive))
        self._items = Items(desk.threads, self._make(), self._ended)

    def _make(self) -> Iterator[bytes]:
        desk = self._desk
        wish = desk.wish(self._asked)
        chunk = desk.config.chunk_seconds
        self._speaking = Speaking(desk.studio, desk.worker, wish, chunk)
        if self._gone:
            raise Cancelled
        yield from self._how(self._speaking)

    def _ended(self) -> None:
        spoken = self._speaking.seconds if self._speaking else 0.0
        self._desk.ends(time.monotonic() - self._start, spoken)

    async def next(self) -> bytes | None:
        """The next bytes; None after the last, or when the client is gone.

        Raises:
            ApiError: if speaking failed or its time is over.
        """
        left = self._start + self._desk.config.timeout - time.monotonic()
        item = asyncio.ensure_future(self._items.next())
        await asyncio.wait(
            {item, self._leaves}, timeout=max(0, left), return_when=asyncio.FIRST_COMPLETED
        )
        if not item.done():
            item.cancel()
            self._cancel()
            if self._leaves.done():
                self._desk.metrics.cancelled.inc()
                return None
            raise ApiError(503, "it took too long; come again later", code="timeout")
        try:
            found = item.result()
        except Cancelled:
            found = None
        except ApiError:
            raise
        except TakeFailed as error:
            raise failure(error) from None
        except Exception:
            logging.getLogger(__name__).exception("a request failed")
            raise ApiError(500, "the server failed; its log says why", code="server") from None
        finally:
            self._leaves_if_done(item)
        if self._first and found is not None:
            self._desk.metrics.first.observe(time.monotonic() - self._start)
            self._first = False
        return found

    def _leaves_if_done(self, item: asyncio.Future) -> None:
        if item.exception() is not None or item.result() is None:
            self._leaves.cancel()

    def _cancel(self) -> None:
        self._gone = True
        if self._speaking is not None:
            self._speaking.cancel()

    async def end(self) -> None:
        """Waits for the end of what has given its only bytes."""
        while await self.next() is not None:
            pass


async def _leaves(receive: Receive) -> None:
    """Ends when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Sound(Response):
    """Bytes as they are made. Where speaking fails on the way, the response stays incomplete: the
    connection is closed, so that nobody takes what came for the whole."""

    def __init__(self, visit: Visit, first: bytes, media_type: str):
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._visit, self._first = visit, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        chunk: bytes | None = self._first
        while chunk is not None:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            try:
                chunk = await self._visit.next()
            except ApiError as error:
                logging.getLogger(__name__).warning("a stream ended early: %s", error)
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def streams(asked: SpeechRequest) -> bool:
    return asked.stream or asked.stream_format == "sse"


def speech(asked: SpeechRequest) -> tuple[Callable[[Speaking], Iterator[bytes]], str, bool]:
    """How a speech request is spoken, its media type, and whether it is answered as a whole."""
    if asked.stream_format == "sse":
        return lambda speaking: events(speaking.stream()), "text/event-stream", False
    media_type = FORMATS[asked.response_format].media_type
    if asked.stream:
        return Speaking.stream, media_type, False
    return Speaking.sound, media_type, True

"""A model folder behind the HTTP server."""

import ipaddress
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import uvicorn

from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.config.serve import ServeConfig
from llasa_jax.console import log
from llasa_jax.errors import UserError
from llasa_jax.recipes import stages
from llasa_jax.recipes.long import PAUSES
from llasa_jax.recipes.provenance import provenance
from llasa_jax.recipes.voice import MAX_TEXT, WEIGHTS, Voice, check_text
from llasa_jax.recipes.voices import NamedVoice, VoiceMaker
from llasa_jax.search.continuous import ContinuousBatch, Draw, TakeFailed, heard
from llasa_jax.search.engine import Engine, Task
from llasa_jax.serve.app import make_app
from llasa_jax.serve.studio import Piece
from llasa_jax.text.english import read_aloud
from llasa_jax.text.sentences import chunks, sentences

ACCEPT = {"content": -0.5}  # nats a character
MOST_KEYS = 1000
CONNECTIONS = 1024


class VoiceStudio:
    """A model folder as the server asks for one (`serve.studio.Studio`)."""

    weights, accept = WEIGHTS, ACCEPT

    def __init__(self, model: Path, slots: int):
        self._folder = stages.model_folder(model)
        self._voice = Voice(self._folder, slots=slots)
        self.name = "nano" if model == stages.shipped_model() else model.resolve().name
        self.engine: Engine = self._voice.engine
        self.usual = self._voice.usual
        self.stream_decoder = self._voice.stream_decoder

    @property
    def voices(self) -> Mapping[str, NamedVoice]:
        return self._voice.voices

    def pieces(self, text: str, voice: NamedVoice) -> list[Piece]:
        check_text(text[:MAX_TEXT])
        parts = chunks(sentences(text, read_aloud), self._voice.limit(voice))
        return [Piece(part.text, PAUSES[part.ends]) for part in parts]

    def task(self, text: str, voice: NamedVoice) -> Task:
        return self._voice.task(text, voice)

    def clone(self, recording: bytes, text: str, name: str) -> NamedVoice:
        return self._maker.from_bytes(recording, text, name, "given, as a client says")

    @cached_property
    def _maker(self) -> VoiceMaker:
        return VoiceMaker(self._folder)

    def metadata(self, voice: NamedVoice, seed: int) -> Mapping[str, str]:
        return provenance(self._voice, voice.name, seed)

    def warm(self, slots: int, chunk_seconds: float) -> None:
        """Compiles the programs of most requests, by speaking one."""
        task = self.task("This is how it sounds.", self.voices[self.usual])
        batch = ContinuousBatch(self.engine.sampler, slots, self.engine.guards)
        news = list(batch.follow(Draw(task, 0)))
        decoder: StreamDecoder = self.stream_decoder(chunk_seconds)
        with suppress(TakeFailed):  # one take may: it is its programs that are wanted
            list(heard(news, task, decoder, self.engine.guards))
        take = news[-1].take
        self.engine.score(task, [take], self.engine.waves([task], [[take]])[0])


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line.

    Raises:
        UserError: if it cannot be read, or holds none, too many or weak ones.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no readable key file ({error})") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not 0 < len(keys) <= MOST_KEYS or min(map(len, keys)) < 16:
        raise UserError(f"{path}: give 1 to {MOST_KEYS} keys, one a line, of 16 characters or more")
    return keys


def serve(model: Path, config: ServeConfig) -> None:
    """Serves until it is told to end (SIGTERM, Ctrl-C), then finishes what runs.

    Raises:
        UserError: if model or address cannot be used, or anybody beyond this machine could ask.
    """
    if not config.keys and not _is_loopback(config.host):
        raise UserError(f"--host {config.host}: anybody could ask; give keys with --key-file")
    listening = _listen(config.host, config.port)
    with listening:
        studio = VoiceStudio(model, config.slots)
        studio.warm(config.slots, config.chunk_seconds)
        logging.basicConfig(format="llasa: %(levelname)s: %(message)s")
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(studio, config),
                http="h11",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(config.timeout) + 1,
                limit_concurrency=CONNECTIONS,
            )
        )
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log(f"{studio.name} listens on http://{shown}:{port} (Ctrl-C ends it)")
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # uvicorn has drained, and raises again what it was told
        log("served what was asked; ended")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot listen there ({error.strerror})") from error

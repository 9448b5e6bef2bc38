"""What the server asks of a model; `recipes.serve` makes one of a model folder."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from llasa_jax.codec.stream import StreamDecoder
from llasa_jax.search.engine import Engine, Task


class Piece(NamedTuple):
    """A part of a text that is spoken at once, and the seconds of silence after it."""

    text: str
    pause: float


class Voice(Protocol):
    """Somebody's voice."""

    name: str
    text: str
    consent: str


class Studio(Protocol):
    """A model that speaks.

    Attributes:
        name: of the model.
        weights: of the verifiers that choose among takes.
        accept: the verifiers' scores at which a sequential search stops.
        usual: the voice that speaks where none is named.
    """

    name: str
    engine: Engine
    weights: Mapping[str, float]
    accept: Mapping[str, float]
    usual: str

    @property
    def voices(self) -> Mapping[str, Any]:
        """The model's own, by name: `Voice` each."""
        ...

    def pieces(self, text: str, voice: Any) -> Sequence[Piece]:
        """A text in parts that a voice speaks at once; UserError if there is nothing to say."""
        ...

    def task(self, text: str, voice: Any) -> Task:
        """One of these parts to speak."""
        ...

    def clone(self, recording: bytes, text: str, name: str) -> Any:
        """The voice of a recording (wav, flac, ogg, mp3) of 1 to 15 s in which `text` is said;
        UserError if it cannot be used."""
        ...

    def stream_decoder(self, seconds: float) -> StreamDecoder:
        """The decoder of chunks of so many seconds."""
        ...

    def metadata(self, voice: Any, seed: int) -> Mapping[str, str]:
        """Tags of a file of its speech."""
        ...

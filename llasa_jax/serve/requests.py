"""What may be asked: OpenAI's fields of a speech request, vLLM-Omni's, and those of the search."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from llasa_jax.audio.encode import FORMATS
from llasa_jax.audio.tempo import FASTEST, SLOWEST
from llasa_jax.config.serve import MOST_CANDIDATES
from llasa_jax.serve.errors import ApiError

MOST_CHARACTERS = 4096
MOST_REFERENCE = 7 << 20  # characters of base64
MOST_REFERENCE_TEXT = 300
Text = Annotated[str, StringConstraints(min_length=1, max_length=MOST_CHARACTERS)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class VoiceId(BaseModel):
    """A voice, as newer clients of OpenAI name one."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Name


class SpokenRequest(BaseModel):
    """What is to be said, by whom, and how it is searched for.

    `ref_audio`: a recording whose voice speaks, inline as base64 or a `data:` URL, or the name of a
    voice. No address is fetched, no file of the server read. A recording needs `ref_text`, what it
    says, and `consent`: that its speaker agreed.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    input: Text
    model: Name | None = None
    voice: Name | VoiceId | None = None
    response_format: Literal[tuple(FORMATS)] = "mp3"
    speed: Annotated[float, Field(ge=SLOWEST, le=FASTEST, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    ref_audio: Annotated[str, StringConstraints(max_length=MOST_REFERENCE)] | None = None
    ref_text: Annotated[str, StringConstraints(max_length=MOST_REFERENCE_TEXT)] | None = None
    consent: bool = False
    candidates: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = None
    strategy: Literal["best-of", "sequential"] = "best-of"


class SpeechRequest(SpokenRequest):
    """`stream` sends sound while it is made: one take, heard as it is drawn. `stream_format` "sse"
    sends it as events."""

    stream: bool = False
    stream_format: Literal["audio", "sse"] = "audio"


class SearchRequest(SpokenRequest):
    """Every candidate is told as it ends, then the choice, then the whole."""


def recording(ref_audio: str) -> bytes | None:
    """The bytes of an inline recording; None if it can only be the name of a voice.

    Raises:
        ApiError: if it is an address, a path, or no whole base64.
    """
    if ref_audio.startswith("data:"):
        head, comma, data = ref_audio.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ApiError(400, "ref_audio: a data: URL must hold base64", param="ref_audio")
    elif len(ref_audio) <= 64:
        return None  # too short for a recording
    else:
        data = ref_audio
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        reason = "ref_audio: give base64 or a data: URL; nothing is fetched or read from a path"
        raise ApiError(400, reason, param="ref_audio") from None

"""What every page of results is made of: pictures, sounds, templates, and files written whole."""

import base64
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile

from llasa_jax.audio.io import resample
from llasa_jax.errors import UserError
from llasa_jax.evaluation.tables import duration

MAX_SOUND_BYTES = 5_500_000  # in a page, as base64: the rest of 8 MB is for figures and text
MAX_CLIP_SECONDS = 30
MP3_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into `folder`, made if it is missing; each appears whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            temporary = folder / f".{name}.{os.getpid()}"
            try:
                temporary.write_bytes(data)
                os.replace(temporary, folder / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {folder}: {error.strerror}; free the place or give another"
        ) from error


def json_bytes(value: Any) -> bytes:
    """A report as a JSON file holds it; NaN and infinities are null."""
    text = json.dumps(plain(value), indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def plain(value: Any) -> Any:
    """`value` as JSON has it: names are text, arrays are lists, NaN and infinities are None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def template(name: str) -> jinja2.Template:
    """A page's template, which escapes what it is given."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


@dataclass(frozen=True)
class Picture:
    """One figure, in both themes; `png` (light) is also written as `file`."""

    file: str
    title: str
    alt: str
    caption: str
    png: bytes
    dark: bytes

    @property
    def sources(self) -> tuple[str, str]:
        """Light and dark as data URIs."""
        return _data_uri("image/png", self.png), _data_uri("image/png", self.dark)


def make_picture(
    file: str, title: str, alt: str, caption: str, draw: Callable[..., bytes], *args, **options
) -> Picture:
    """What `draw` draws of its arguments, in both themes."""
    light, dark = (draw(*args, theme=theme, **options) for theme in ("light", "dark"))
    return Picture(file, title, alt, caption, light, dark)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@dataclass
class Clip:
    """One sound of the page: what it is, and its player's source or why there is none."""

    name: str
    sound: dict[str, Any]
    chosen_at: list[int] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    transcript: str = ""
    status: str = ""
    source: str = ""
    missing: str = ""

    def __post_init__(self):
        wave = np.asarray(self.sound.get("wave", ()), np.float32).reshape(-1)
        self.rate = int(self.sound.get("rate") or 16000)
        self.full = duration(wave.size / self.rate)
        self.wave = np.nan_to_num(wave[: MAX_CLIP_SECONDS * self.rate]).clip(-1.0, 1.0)

    def encode(self, room: int) -> int:
        """Make the player's source if it takes at most `room` bytes; returns what it took."""
        if self.wave.size == 0:
            self.missing = "no sound"
            return 0
        source = _data_uri("audio/mpeg", mp3(self.wave, self.rate))
        if len(source) > room:
            self.missing = "left out to keep this page small"
            return 0
        self.source = source
        return len(source)


def fill_players(clips: Iterable[Clip]) -> None:
    """Make the clips' sounds, in this order, as long as the page has room for them."""
    room = MAX_SOUND_BYTES
    for clip in clips:
        room -= clip.encode(room)


def mp3(wave: np.ndarray, rate: int) -> bytes:
    """A wave, float32 [samples], as MP3 (48 kbit/s at 16 kHz), which every browser plays."""
    if rate not in MP3_RATES:
        wave, rate = resample(wave, rate, 16000), 16000
    buffer = io.BytesIO()
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.75}
    soundfile.write(buffer, wave, rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    return buffer.getvalue()

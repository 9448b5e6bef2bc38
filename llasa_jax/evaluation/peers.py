"""Real codecs that need no weights, to measure ours against: Opus and Codec2.

Opus is libopus inside PyAV. Codec2 is the Debian package's `c2enc` and `c2dec`, unpacked into the
cache where the system has none; it works at 8 kHz.
"""

import gzip
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from llasa_jax.audio.io import resample, to_int16
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.data.debian import fetch_packages, library_path
from llasa_jax.errors import UserError

RATE = 16_000
OPUS_BITS, OPUS_RATE = 6000, 48_000
CODEC2_RATE = 8000
# Bits a second (for 700 the mode is called 700C) -> samples a frame at 8 kHz.
CODEC2_FRAMES = {700: 320, 1200: 320, 1600: 320, 3200: 160}
CODEC2_SECONDS = 60  # more than any wave takes


class WaveCodec(Protocol):
    """Takes and gives waves float32 [samples] at 16 kHz; what lies between is its own business.

    Attributes:
        late: whether its waves come late, by a time that is its own.
    """

    late: bool

    def encode(self, waves: Sequence[np.ndarray]) -> list[Any]: ...

    def decode(self, payloads: Sequence[Any]) -> list[np.ndarray]: ...

    def bits_per_second(self, payloads: Sequence[Any], seconds: float) -> float:
        """Of payloads that together hold so many seconds of sound."""
        ...


@dataclass(frozen=True)
class Ours:
    """A codec of this project; `bits_per_second` counts every code of the book alike."""

    codec: BatchCodec
    late: bool = False

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.codec.encode([resample(w, RATE, self.codec.config.sample_rate) for w in waves])

    def decode(self, payloads: Sequence[np.ndarray]) -> list[np.ndarray]:
        waves = self.codec.decode(payloads)
        return [resample(wave, self.codec.config.output_rate, RATE) for wave in waves]

    def bits_per_second(self, payloads: Sequence[np.ndarray], seconds: float) -> float:
        return float(np.log2(self.codec.config.codebook_size) * self.codec.config.frame_rate)


class OpusPackets(NamedTuple):
    """A sound as Opus has it: what the decoder must know once, and the packets."""

    header: bytes
    packets: list[bytes]


@dataclass(frozen=True)
class Opus:
    """libopus for speech at 6 kbit/s; its bits are those of the packets, without a container.

    At that rate it chooses narrow band itself; 6 kbit/s is a mean over time, its default, or what
    each packet has.
    """

    constant: bool = False
    late: bool = False  # its decoder takes the delay off

    def encode(self, waves: Sequence[np.ndarray]) -> list[OpusPackets]:
        return [self._encode(wave) for wave in waves]

    def _encode(self, wave: np.ndarray) -> OpusPackets:
        import av

        encoder = av.CodecContext.create("libopus", "w")
        encoder.sample_rate, encoder.layout, encoder.format = RATE, "mono", "s16"
        encoder.bit_rate = OPUS_BITS
        encoder.options = {"application": "voip", "vbr": "off" if self.constant else "on"}
        encoder.open()
        frame = av.AudioFrame.from_ndarray(to_int16(wave)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        packets = [*encoder.encode(frame), *encoder.encode(None)]
        return OpusPackets(encoder.extradata, [bytes(packet) for packet in packets])

    def decode(self, payloads: Sequence[OpusPackets]) -> list[np.ndarray]:
        return [self._decode(payload) for payload in payloads]

    def _decode(self, payload: OpusPackets) -> np.ndarray:
        import av

        decoder = av.CodecContext.create("libopus", "r")
        decoder.extradata = payload.header
        frames = [f for packet in payload.packets for f in decoder.decode(av.Packet(packet))]
        frames += decoder.decode(None)
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
        return resample(samples.astype(np.float32) / 32768, OPUS_RATE, RATE)

    def bits_per_second(self, payloads: Sequence[OpusPackets], seconds: float) -> float:
        return 8 * sum(len(packet) for each in payloads for packet in each.packets) / seconds


@dataclass(frozen=True)
class Codec2Programs:
    """`c2enc` and `c2dec`, the environment they run in, and the version of their package."""

    encoder: str
    decoder: str
    environment: dict[str, str]
    version: str

    @classmethod
    def find(cls, cache: Path) -> "Codec2Programs":
        """The system's own, else those of the Debian package.

        Raises:
            UserError: if there are neither, or they do not run.
        """
        environment, version = dict(os.environ), "the system's"
        encoder, decoder = shutil.which("c2enc"), shutil.which("c2dec")
        if encoder is None or decoder is None:
            roots = fetch_packages(["codec2"], cache, libraries=True)
            encoder, decoder = (str(roots[0] / "usr/bin" / name) for name in ("c2enc", "c2dec"))
            paths = [library_path(roots), environment.get("LD_LIBRARY_PATH")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
            with gzip.open(roots[0] / "usr/share/doc/codec2/changelog.Debian.gz", "rt") as file:
                version = file.readline().split("(")[1].split(")")[0]
        return cls(encoder, decoder, environment, version)

    def run(self, program: str, mode: str, data: bytes) -> bytes:
        """What the program makes of `data`.

        Raises:
            UserError: if it fails.
        """
        command = [program, mode, "-", "-"]
        try:
            done = subprocess.run(
                command,
                input=data,
                capture_output=True,
                env=self.environment,
                timeout=CODEC2_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{program} does not run ({error}); install codec2") from error
        if done.returncode or not done.stdout:
            reason = done.stderr.decode(errors="replace").strip()[:200]
            raise UserError(f"{program} {mode} failed ({reason or 'no output'}); install codec2")
        return done.stdout


@dataclass(frozen=True)
class Codec2:
    """Codec2 at `bits` a second (700, 1200, 1600 or 3200), which is the rate it is called by."""

    bits: int
    programs: Codec2Programs
    late: bool = True

    @property
    def mode(self) -> str:
        return "700C" if self.bits == 700 else str(self.bits)

    def encode(self, waves: Sequence[np.ndarray]) -> list[bytes]:
        return [self._encode(wave) for wave in waves]

    def _encode(self, wave: np.ndarray) -> bytes:
        narrow = resample(wave, RATE, CODEC2_RATE)
        frame = CODEC2_FRAMES[self.bits]
        # c2enc drops an incomplete frame, and the end of the sound is still on its way then.
        pcm = to_int16(np.pad(narrow, (0, -len(narrow) % frame + 2 * frame)))
        return self.programs.run(self.programs.encoder, self.mode, pcm.astype("<i2").tobytes())

    def decode(self, payloads: Sequence[bytes]) -> list[np.ndarray]:
        return [self._decode(payload) for payload in payloads]

    def _decode(self, payload: bytes) -> np.ndarray:
        pcm = self.programs.run(self.programs.decoder, self.mode, payload)
        return resample(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768, CODEC2_RATE, RATE)

    def bits_per_second(self, payloads: Sequence[bytes], seconds: float) -> float:
        return float(self.bits)

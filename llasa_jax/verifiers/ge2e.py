"""The GE2E speaker encoder of Resemblyzer 0.1.4 (Wan et al. 2018): an independent judge of voices.

Three LSTM layers of 256 over 40 mel powers (25 ms windows every 10 ms, 16 kHz); the last state of
1.6 s goes through a linear map and a ReLU to a unit embedding [256]. An utterance's embedding is
the unit mean of those of its partial utterances, 77 frames apart; a last one that is less than
three quarters filled is left out. Volume is raised to -30 dBFS as in the original; its removal of
long silences by WebRTC's voice detector is not done.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import librosa
import numpy as np

RATE, WINDOW, HOP, BINS = 16000, 400, 160, 40
SIZE, LAYERS = 256, 3
FRAMES, STEP, MIN_COVERAGE = 160, 77, 0.75
TARGET_DBFS = -30.0
BATCH = 32  # partial utterances a call


def partial_starts(samples: int) -> list[int]:
    """First mel frames of an utterance's partial utterances of 160 frames."""
    frames = -(-(samples + 1) // HOP)
    starts = list(range(0, max(1, frames - FRAMES + STEP + 1), STEP))
    coverage = (samples - starts[-1] * HOP) / (FRAMES * HOP)
    return starts[:-1] if coverage < MIN_COVERAGE and len(starts) > 1 else starts


def mel_powers(wave: np.ndarray) -> np.ndarray:
    """Mel powers (no logarithm), float32 [samples // 160 + 1, 40], of a wave at 16 kHz."""
    mel = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BINS)
    return mel.T.astype(np.float32)


def raise_volume(wave: np.ndarray) -> np.ndarray:
    """The wave at -30 dBFS if it was softer; a silent one stays as it is."""
    rms = np.sqrt(np.mean(np.square(wave, dtype=np.float64)))
    target = 10 ** (TARGET_DBFS / 20)
    return wave if rms == 0 or rms >= target else (wave * (target / rms)).astype(np.float32)


def embed_frames(params: dict, frames: jax.Array) -> jax.Array:
    """Unit embeddings [B, 256] of partial utterances, frames [B, 160, 40]; pure and jittable.

    `params`: "lstm" is a list of layers {"input" [in, 1024], "hidden" [256, 1024], "bias" [1024]}
    with torch's gate order (input, forget, cell, output); "kernel" [256, 256], "bias" [256].
    """
    x = jnp.swapaxes(frames, 0, 1)
    for layer in params["lstm"]:
        x = _lstm(layer, x)
    raw = jax.nn.relu(x[-1] @ params["kernel"] + params["bias"])
    return raw / jnp.maximum(jnp.linalg.norm(raw, axis=-1, keepdims=True), 1e-12)


def _lstm(layer: dict, x: jax.Array) -> jax.Array:
    """One LSTM layer over time: x [T, B, in] -> states [T, B, 256]."""

    def step(carry: tuple, gates: jax.Array) -> tuple:
        hidden, cell = carry
        gates = gates + hidden @ layer["hidden"]
        into, forget, new, out = jnp.split(gates, 4, -1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zero = jnp.zeros((x.shape[1], layer["hidden"].shape[0]))
    return jax.lax.scan(step, (zero, zero), x @ layer["input"] + layer["bias"])[1]


class Ge2eEncoder:
    """Embeds waves of any lengths.

    `params` come from `llasa_jax.interop.resemblyzer.load_ge2e`.
    """

    name = "ge2e"

    def __init__(self, params: dict):
        self.params = params
        self._embed = jax.jit(embed_frames)

    def embed(self, waves: Sequence[np.ndarray]) -> np.ndarray:
        """Unit embeddings float32 [N, 256] of waves float32 [samples] at 16 kHz."""
        if not waves:
            return np.zeros((0, SIZE), np.float32)
        pieces, owner = [], []
        for number, wave in enumerate(waves):
            starts = partial_starts(len(wave))
            padded = np.pad(
                raise_volume(wave), (0, max(0, (starts[-1] + FRAMES) * HOP - len(wave)))
            )
            mel = mel_powers(padded)
            pieces += [mel[start : start + FRAMES] for start in starts]
            owner += [number] * len(starts)
        frames = np.zeros((-(-len(pieces) // BATCH) * BATCH, FRAMES, BINS), np.float32)
        frames[: len(pieces)] = pieces
        blocks = [
            self._embed(self.params, frames[i : i + BATCH]) for i in range(0, len(frames), BATCH)
        ]
        total = np.zeros((len(waves), SIZE), np.float32)
        np.add.at(total, owner, np.concatenate(blocks)[: len(pieces)])
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

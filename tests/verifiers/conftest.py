"""Random weights and waves for the released models."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llasa_jax import nn
from llasa_jax.interop.bundle import flatten, unflatten
from llasa_jax.interop.layouts import views
from llasa_jax.interop.weights import write_tensors
from llasa_jax.verifiers.protocol import Candidates

SPECIALS = (
    "endoftext",
    "startoftranscript",
    "en",
    "zh",
    "translate",
    "transcribe",
    "nospeech",
    "notimestamps",
)


def _letters() -> list[str]:
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


@pytest.fixture(scope="session")
def whisper_tokenizer() -> Tokenizer:
    """Bytes as tokens, then Whisper's special tokens: 264 ids."""
    vocab = {letter: byte for byte, letter in enumerate(_letters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>") for name in SPECIALS])
    return tokenizer


def random_leaf(rng: np.random.Generator, key: str, shape: tuple) -> np.ndarray:
    """Weights that keep activations lively: none is zero, norms are near one."""
    x = rng.normal(size=shape).astype(np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "kernel":
        fan_in = np.prod(shape[-3:-1] if "conv" in key else shape[-2:-1])
        return x * np.float32(1.3 * fan_in**-0.5)
    if leaf in ("scale", "variance"):
        return 1 + np.float32(0.2) * np.abs(x)
    return np.float32(0.2) * x


@pytest.fixture(scope="session")
def random_params():
    """(build) -> random parameters of the module that build(rngs) makes."""

    def make(build) -> dict:
        rng = np.random.default_rng(0)
        _, template = nn.abstract(build)
        leaves = {k: random_leaf(rng, k, v.shape) for k, v in flatten(template).items()}
        return unflatten(template, leaves)

    return make


@pytest.fixture(scope="session")
def publish():
    """(folder, table, params, files) -> a model's folder as it is published."""

    def write(folder: Path, table: dict, params: dict, files: dict, **extra: np.ndarray) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = dict(extra)
        for key, leaf in flatten(params).items():
            tensors |= views(table, key, leaf)
        write_tensors(folder / "model.safetensors", tensors)
        for name, values in files.items():
            (folder / name).write_text(json.dumps(values))
        return folder

    return write


@pytest.fixture(scope="session")
def speech_like():
    """(sizes) -> waves float32 [samples] at 16 kHz whose pitch and level change."""

    def make(*sizes: int) -> list[np.ndarray]:
        rng = np.random.default_rng(1)
        waves = []
        for size in sizes:
            time = np.arange(size) / 16000
            phase = np.cumsum(150 + 80 * np.sin(2 * np.pi * 1.7 * time)) / 16000
            tones = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 20))
            envelope = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 4) * time)
            waves.append((0.1 * tones * envelope + rng.normal(0, 0.01, size)).astype(np.float32))
        return waves

    return make


@pytest.fixture(scope="session")
def randomise():
    """(a torch module) -> the same, every parameter random: norms and biases as well."""

    def make(model):
        import torch

        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.normal_(generator=generator)
                if name.endswith(("weight_g", "original0")):
                    weight.abs_().add_(1.0)
                elif weight.ndim > 1 and not name.endswith(("positions.weight", "alibi_scale")):
                    weight.mul_(1.3 * weight[0].numel() ** -0.5)
                else:
                    weight.mul_(0.2).add_(float("norm" in name and name.endswith("weight")))
            for name, buffer in model.named_buffers():  # of batch norms
                if name.endswith("running_mean"):
                    buffer.normal_(0, 0.3, generator=generator)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 2.0, generator=generator)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def candidates_of():
    """(waves, size) -> candidates; what lies past a wave's end is noise that nobody may hear."""

    def make(waves: list[np.ndarray], size: int) -> Candidates:
        padded = np.random.default_rng(2).normal(0, 0.3, (len(waves), size)).astype(np.float32)
        for row, wave in zip(padded, waves, strict=True):
            row[: len(wave)] = wave
        lengths = np.array([len(wave) for wave in waves], np.int32)
        return Candidates(np.zeros((len(waves), 1), np.int32), padded, lengths)

    return make

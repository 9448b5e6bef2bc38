"""A tiny codec and a small corpus with every split, for what prepares and trains on token rows."""

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import (
    CodecConfig,
    DecoderConfig,
    RecogniserConfig,
    SpeakerConfig,
    SpectralConfig,
    TransformerConfig,
)
from llasa_jax.data.store import WaveStore
from llasa_jax.data.utterance import Utterance
from llasa_jax.interop.bundle import save_part
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import english_vocabulary
from llasa_jax.verifiers.recogniser import Recogniser
from llasa_jax.verifiers.speaker import SpeakerEncoder

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
CODEC = CodecConfig(
    levels=(4, 3, 5), spectral=SpectralConfig(8, SMALL), decoder=SMALL, norm_groups=4
)

LM = DecoderConfig(
    dim=16, ffn=16, layers=1, heads=2, kv_heads=1, head_dim=8, text_vocab=268, codes=60
)
PARTS = {
    "lm": (LM, Decoder),
    "recogniser": (RecogniserConfig(dim=8, layers=1, width=3), Recogniser),
    "speaker": (SpeakerConfig(channels=8, layers=1, embedding=4), SpeakerEncoder),
}


class Tones:
    """`count` noisy tones of 0.4 to 1 s with short texts; the splits take turns."""

    name, version, rejects = "tones", "", ()

    def __init__(self, count):
        self.count = count

    def utterances(self):
        splits = ("train", "train", "valid", "test")
        return [
            Utterance(
                id=f"tones/{i:03d}",
                text=f"word {i} {splits[i % 4]}"[: 6 + i % 9],
                speaker=f"s{i % 2}",
                language="en",
                licence="mine",
                kind="recorded",
                split=splits[i % 4],
            )
            for i in range(self.count)
        ]

    def read(self, utterance):
        number = int(utterance.id[-3:])
        rng = np.random.default_rng(number)
        frames = 20 + number % 30
        noise = rng.normal(size=(frames, 320)) * rng.uniform(0, 0.2, (frames, 1))
        time = np.arange(noise.size) / 16_000
        tone = 0.1 * np.sin(2 * np.pi * (100 + 7 * number) * time * (1 + time))
        return np.float32(tone + noise.reshape(-1)), 16_000


@pytest.fixture(scope="session")
def tones(tmp_path_factory):
    """A store of forty tones."""
    folder = tmp_path_factory.mktemp("tones") / "store"
    WaveStore.build([Tones(40)], folder)
    return folder


@pytest.fixture(scope="session")
def make_model():
    """(folder, configuration) -> a codec of random weights there."""

    def make(folder, config=CODEC):
        rng = np.random.default_rng(0)
        _, template = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), template)
        save_part(folder, "codec", config, params)

    return make


@pytest.fixture(scope="session")
def speaking_parts():
    """By name, configuration and module of all parts of a model but its codec."""
    return PARTS


@pytest.fixture(scope="module")
def speaking_model(make_model, tmp_path_factory):
    """A whole model of random weights, which learned from one speaker."""
    folder = tmp_path_factory.mktemp("voices") / "model"
    make_model(folder)
    rng = np.random.default_rng(1)
    for name, (config, module) in PARTS.items():
        _, template = nn.abstract(lambda rngs, m=module, c=config: m(c, rngs=rngs))
        params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), template)
        about = {"speakers": ["s0"], "pace": 1.5, "voices": {"s0": [1.0, 0, 0, 0]}}
        save_part(folder, name, config, params, about)
    english_vocabulary(60).save(folder)
    return folder

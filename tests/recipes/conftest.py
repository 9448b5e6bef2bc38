"""A tiny codec and a small corpus with every split, for what prepares and trains on token rows."""

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, SpectralConfig, TransformerConfig
from llasa_jax.data.store import WaveStore
from llasa_jax.data.utterance import Utterance
from llasa_jax.interop.bundle import save_part

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
CODEC = CodecConfig(
    levels=(4, 3, 5), spectral=SpectralConfig(8, SMALL), decoder=SMALL, norm_groups=4
)


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

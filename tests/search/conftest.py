"""A small decoder with uneven logits, so that a wrong cache shows; stand-ins for the rest."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, GuardConfig
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import nano_vocabulary
from llasa_jax.search.engine import Engine
from llasa_jax.search.sampler import Sampler
from llasa_jax.verifiers.protocol import Verifier

CODES = 40
CONFIG = DecoderConfig(
    dim=32,
    ffn=48,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    text_vocab=267,
    codes=CODES,
    tied_embeddings=False,
)
HOP = 480


class Codec:
    """A code becomes 480 samples whose level is the code's: code 0 is silent.

    As NeuCodec it writes at 24 kHz what it read at 16.
    """

    config = SimpleNamespace(
        sample_rate=16000,
        output_rate=24000,
        hop=320,
        output_hop=HOP,
        frame_rate=50,
        codebook_size=CODES,
    )

    def decode(self, codes):
        return [np.repeat(np.float32(one) / CODES, HOP) for one in codes]


def mean_code(params, candidates, reference):
    """The mean level that is heard: higher codes score better."""
    return abs(candidates.waves).sum(1) / candidates.lengths


@functools.cache
def model():
    graphdef, params = nn.split(Decoder(CONFIG, rngs=nnx.Rngs(0)))
    params |= {name: params[name] * 20 for name in ("embedding", "head")}
    return graphdef, jax.device_get(params)  # host arrays part into layers without a program


@pytest.fixture(scope="session")
def tiny():
    """Configuration, model and vocabulary; `sampler(...)` and `engine(...)` make the rest."""
    vocabulary = nano_vocabulary(CODES)

    def sampler(slots=12, *rest, **settings):
        return Sampler(*model(), vocabulary, *rest, slots=slots, room=64, **settings)

    def engine(guards=None, **settings):
        level = Verifier("level", {}, mean_code, lambda text, wave: np.zeros(1, np.float32))
        guards = guards or GuardConfig(min_codes=0.1, slack_codes=10, loop_codes=0, retries=0)
        return Engine(sampler(columns=4, **settings), vocabulary, Codec(), [level], guards)

    return SimpleNamespace(
        config=CONFIG, model=model, vocabulary=vocabulary, sampler=sampler, engine=engine
    )

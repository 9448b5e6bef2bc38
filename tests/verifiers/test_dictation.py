"""What the model writes, against the likeliest next id of plain passes over the whole sequence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import DecoderConfig
from llasa_jax.errors import UserError
from llasa_jax.lm.model import Decoder
from llasa_jax.lm.vocabulary import nano_vocabulary
from llasa_jax.verifiers import dictation
from llasa_jax.verifiers.dictation import Dictation

VOCABULARY = nano_vocabulary(64)
SIZES = dict(dim=32, ffn=48, layers=2, heads=4, kv_heads=2, head_dim=8)
CONFIG = DecoderConfig(**SIZES, text_vocab=VOCABULARY.text_vocab, codes=64, unseen=VOCABULARY.eot)


class Codec:
    """Eight samples a code; a code is the first sample's size."""

    config = dataclasses.make_dataclass("Config", ["sample_rate", "hop", "codebook_size"])(
        16000, 8, 64
    )

    def encode(self, waves):
        return [np.int32(wave[: len(wave) // 8 * 8 : 8] * 64) for wave in waves]


def test_greedy_texts_are_the_likeliest_of_whole_passes(random_params, monkeypatch):
    monkeypatch.setattr(dictation, "UNIT", 8)
    monkeypatch.setattr(dictation, "SPARE", 4)
    params = random_params(lambda rngs: Decoder(CONFIG, rngs=rngs))
    rng = np.random.default_rng(0)
    waves = [rng.uniform(0, 1, 8 * n).astype(np.float32) for n in (8, 3, 6)]
    waves.append(np.zeros(3, np.float32))
    judge = Dictation(CONFIG, params, VOCABULARY, Codec(), batch=4)

    @jax.jit
    def next_id(params, ids, count):
        graphdef, _ = nn.abstract(lambda rngs: Decoder(CONFIG, rngs=rngs))
        decoder = nn.merge(graphdef, params)
        hidden = decoder.hidden(ids[None], jnp.arange(len(ids))[None])[0, count - 1]
        logits = decoder.logits(hidden, 0, CONFIG.text_vocab + 8)
        keep = jnp.arange(len(logits)) < CONFIG.text_vocab
        return jnp.where(keep.at[VOCABULARY.text_end].set(True), logits, -jnp.inf).argmax()

    expected = []
    for wave in waves[:3]:
        ids = list(VOCABULARY.transcription_prompt(Codec().encode([wave])[0]))
        start = len(ids)
        while len(ids) < start + 12:
            found = int(next_id(params, np.pad(ids, (0, 80 - len(ids))), len(ids)))
            if found == VOCABULARY.text_end:
                break
            ids.append(found)
        expected.append(judge._read(np.array(ids[start:])))
    counted = []
    assert judge.transcribe(waves, lambda: counted.append(1)) == [*expected, ""]
    assert len(counted) == 3 and len(set(expected)) > 1


def test_parts_that_do_not_belong_together_are_refused():
    with pytest.raises(UserError, match="its codec 64"):
        Dictation(dataclasses.replace(CONFIG, codes=60), {}, VOCABULARY, Codec())

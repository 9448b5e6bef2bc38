"""The released models also trace in bfloat16, on their released sizes, and score in float32."""

import jax
import jax.numpy as jnp
import pytest

from llasa_jax import nn
from llasa_jax.config import Emotion2vecConfig, HubertConfig, WavlmConfig, WhisperConfig
from llasa_jax.verifiers.emotion2vec import Emotion2vec, emotion2vec_verifier
from llasa_jax.verifiers.hubert import Hubert, hubert_verifier
from llasa_jax.verifiers.protocol import Candidates
from llasa_jax.verifiers.wavlm import WavlmSpeaker, wavlm_verifier
from llasa_jax.verifiers.whisper import Whisper, WhisperVocabulary, whisper_verifier

SHAPES = Candidates(
    jax.ShapeDtypeStruct((3, 50), jnp.int32),
    jax.ShapeDtypeStruct((3, 16000), jnp.float32),
    jax.ShapeDtypeStruct((3,), jnp.int32),
)
LABELS = jax.ShapeDtypeStruct((32,), jnp.int32)


@pytest.mark.parametrize(
    "model, config, make, target, millions",
    [
        (Whisper, WhisperConfig(compute_dtype="bfloat16"), whisper_verifier, LABELS, 38),
        (Hubert, HubertConfig(compute_dtype="bfloat16"), hubert_verifier, LABELS, 315),
        (WavlmSpeaker, WavlmConfig(compute_dtype="bfloat16"), wavlm_verifier, 256, 324),
        (
            Emotion2vec,
            Emotion2vecConfig(compute_dtype="bfloat16"),
            emotion2vec_verifier,
            1024,
            313,
        ),
    ],
)
def test_scores_are_float32(model, config, make, target, millions, whisper_tokenizer):
    _, params = nn.abstract(lambda rngs: model(config, rngs=rngs))
    vocabulary = [WhisperVocabulary(whisper_tokenizer, language="en")] * (model is Whisper)
    if isinstance(target, int):
        target = jax.ShapeDtypeStruct((target,), jnp.float32)
    scores = jax.eval_shape(make(config, params, *vocabulary).score, params, SHAPES, target)
    assert scores.shape == (3,) and scores.dtype == jnp.float32
    assert round(nn.parameter_count(params) / 1e6) == millions

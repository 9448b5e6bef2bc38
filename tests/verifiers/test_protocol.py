import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.errors import UserError
from llasa_jax.verifiers.protocol import (
    Candidates,
    Verifier,
    ensure_judge_differs,
    ensure_rate,
    score_all,
)


def test_several_verifiers_score_in_one_call():
    loud = Verifier(
        "loudness",
        {"gain": jnp.float32(2.0)},
        lambda params, candidates, reference: params["gain"] * candidates.waves.max(1),
        lambda text, wave: np.zeros(0),
    )
    near = Verifier(
        "length",
        {},
        lambda params, candidates, reference: -jnp.abs(candidates.lengths - reference) / 1.0,
        lambda text, wave: np.float32(len(text)),
    )
    waves = np.array([[0.1, 0.2], [0.5, 0.0]], np.float32)
    candidates = Candidates(np.zeros((2, 1), np.int32), waves, np.array([2, 1], np.int32))
    scores = score_all([loud, near], candidates, [v.reference("ab", None) for v in (loud, near)])
    np.testing.assert_allclose(scores["loudness"], [0.4, 1.0], rtol=1e-6)
    np.testing.assert_allclose(scores["length"], [0.0, -1.0])


def test_waves_of_another_rate_are_refused():
    nothing = Verifier("codes", {}, None, None)
    wideband = Verifier("wideband", {}, None, None, rate=16000)
    ensure_rate([nothing, wideband], 16000)
    with pytest.raises(UserError, match="wideband: hears 16000 Hz, the codec writes 24000"):
        ensure_rate([nothing, wideband], 24000)


def test_the_judge_must_not_have_selected():
    ensure_judge_differs(["content", "speaker"], "pocketsphinx")
    with pytest.raises(UserError, match="already selected"):
        ensure_judge_differs(["content", "speaker"], "content")

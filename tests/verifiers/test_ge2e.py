"""The GE2E encoder against Resemblyzer's own arithmetic (torch's LSTM with the same weights)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llasa_jax.errors import UserError
from llasa_jax.interop import resemblyzer
from llasa_jax.verifiers.ge2e import (
    FRAMES,
    HOP,
    STEP,
    Ge2eEncoder,
    embed_frames,
    partial_starts,
    raise_volume,
)


def tone(seconds: float, pitch: float) -> np.ndarray:
    t = np.arange(int(16000 * seconds)) / 16000
    rng = np.random.default_rng(int(pitch))
    return (0.1 * np.sign(np.sin(2 * np.pi * pitch * t)) + rng.normal(0, 0.01, t.size)).astype("f4")


@pytest.fixture(scope="module")
def encoder() -> Ge2eEncoder:
    pytest.importorskip("importlib.metadata").distribution("Resemblyzer")
    return Ge2eEncoder(resemblyzer.load_ge2e())


@given(st.integers(1, 400_000))
def test_partial_utterances_cover_the_wave(samples):
    starts = partial_starts(samples)
    assert starts == list(range(0, len(starts) * STEP, STEP))
    covered = (starts[-1] + FRAMES) * HOP
    assert samples - covered < max(0.75 * FRAMES, STEP) * HOP
    assert len(starts) == 1 or samples - starts[-1] * HOP >= 0.75 * FRAMES * HOP


def test_volume_is_only_raised():
    loud, soft = tone(0.1, 100), 0.01 * tone(0.1, 100)
    assert raise_volume(loud) is loud
    assert np.sqrt(np.mean(raise_volume(soft) ** 2)) == pytest.approx(10 ** (-30 / 20), rel=1e-3)
    assert not raise_volume(np.zeros(10, np.float32)).any()


def test_embeddings_are_unit_and_independent_of_company(encoder):
    waves = [tone(1.0, 110), tone(3.3, 110), tone(2.0, 220)]
    together = encoder.embed(waves)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[1], encoder.embed(waves[1:2])[0], atol=1e-5)
    assert together[0] @ together[1] > together[0] @ together[2]


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise resemblyzer.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(resemblyzer.metadata, "distribution", missing)
    with pytest.raises(UserError, match="pip install --no-deps Resemblyzer"):
        resemblyzer.load_ge2e()


@pytest.mark.parity
def test_equals_torch_with_the_released_weights(encoder):
    torch = pytest.importorskip("torch")
    state = torch.load(resemblyzer.weights_file(), map_location="cpu", weights_only=True)
    state = state["model_state"]
    lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
    linear = torch.nn.Linear(256, 256)
    lstm.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("lstm.")})
    linear.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("linear.")})
    frames = np.random.default_rng(0).gamma(0.3, 0.2, (4, FRAMES, 40)).astype(np.float32)
    with torch.no_grad():
        hidden = lstm(torch.from_numpy(frames))[1][0][-1]
        expected = torch.relu(linear(hidden))
        expected = (expected / expected.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(embed_frames(encoder.params, frames), expected, atol=1e-5)

"""Parts of the codec against torch and transformers' Xcodec2.

The whole codec, with import and export: tests/interop/test_codec_parity.py.
"""

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.audio.spectral import log_mel, stft
from llasa_jax.codec.activations import TAPS, SnakeBeta
from llasa_jax.codec.losses import MEL_RESOLUTIONS, mel_loss
from llasa_jax.codec.quantizer import quantize, to_codes, to_grid

pytestmark = pytest.mark.parity

LEVELS = (4,) * 8


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def xcodec2(torch):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Xcodec2Config"):
        pytest.fail(f"transformers {transformers.__version__} has no Xcodec2: take 5.23 or later")
    from transformers.models.xcodec2 import modeling_xcodec2

    return modeling_xcodec2


def test_all_codes_stand_for_the_grid_points_of_transformers(torch, xcodec2):
    fsq = xcodec2.Xcodec2FiniteScalarQuantization(xcodec2.Xcodec2Config())
    every = np.arange(65536)
    grid = fsq.codebook.numpy()
    np.testing.assert_array_equal(to_grid(every, LEVELS), grid)
    np.testing.assert_array_equal(to_codes(grid, LEVELS), every)
    x = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    expected, codes = fsq(fsq.bound(torch.from_numpy(x)))
    found = np.asarray(jax.jit(lambda x: quantize(x, LEVELS))(x))
    same = (found == expected.numpy()).all(-1)
    assert same.mean() > 0.999
    np.testing.assert_array_equal(to_codes(found, LEVELS)[same], codes.numpy()[same])


@pytest.mark.parametrize("size", [1, 12, 700])
def test_alias_free_activations_are_those_of_transformers(torch, xcodec2, size):
    """Values and gradients, with phases far beyond one turn."""
    channels, rng = 6, np.random.default_rng(1)
    theirs = xcodec2.Xcodec2AntiAliasedActivation1d(xcodec2.Xcodec2SnakeBeta(channels))
    np.testing.assert_allclose(theirs.upsample.filter[0, 0].numpy(), TAPS, atol=1e-7)
    x, weight = (rng.normal(size=(2, size, channels)).astype(np.float32) for _ in range(2))
    params = {name: rng.normal(size=channels).astype(np.float32) for name in ("alpha", "beta")}
    for name, value in params.items():
        getattr(theirs.act, name).data.copy_(torch.from_numpy(value))
    given = torch.from_numpy(x.transpose(0, 2, 1).copy()).requires_grad_()
    expected = theirs(given)
    expected.backward(torch.from_numpy(weight.transpose(0, 2, 1).copy()))

    graphdef, _ = nn.abstract(lambda rngs: SnakeBeta(channels, rngs=rngs))
    snake = lambda params, x: nn.merge(graphdef, params)(x, np.full(2, size))  # noqa: E731
    found, back = jax.jit(lambda *xs: jax.vjp(snake, *xs))(params, x)
    slopes, slope = jax.jit(lambda back, weight: back(weight))(back, weight)
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())  # noqa: E731
    near(found, expected.detach().numpy().transpose(0, 2, 1))
    near(slope, given.grad.numpy().transpose(0, 2, 1))
    for name in params:
        near(slopes[name], getattr(theirs.act, name).grad.numpy())


@pytest.mark.parametrize(("window", "hop"), [(1280, 320), (512, 128), (32, 8)])
def test_stft_is_that_of_torch(torch, window, hop):
    wave = np.random.default_rng(3).normal(size=(2, 4000)).astype(np.float32)
    hann = torch.hann_window(window)
    expected = torch.stft(torch.from_numpy(wave), window, hop, window=hann, return_complex=True)
    found = np.asarray(jax.jit(stft, static_argnums=(1, 2))(wave, window, hop))
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 1), atol=2e-4)


def test_mel_loss_is_that_of_torch_and_transformers_filters(torch):
    """A different filter bank and STFT: transformers' Slaney filters, torch's STFT."""
    audio_utils = pytest.importorskip("transformers.audio_utils")
    rng = np.random.default_rng(4)
    a, b = (scale * rng.normal(size=(2, 4000)).astype(np.float32) for scale in (0.3, 0.1))

    def mel(wave, window, bins):
        filters = audio_utils.mel_filter_bank(
            window // 2 + 1, bins, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney"
        )
        spectrum = torch.stft(
            torch.from_numpy(wave),
            *(window, window // 4),
            window=torch.hann_window(window),
            return_complex=True,
        )
        return spectrum.abs().numpy().transpose(0, 2, 1) @ filters

    expected = 0.0
    for window, bins in MEL_RESOLUTIONS:
        x, y = (np.log10(np.maximum(mel(wave, window, bins), 1e-5)) for wave in (a, b))
        expected += np.abs(x - y).mean()
    found = jax.jit(lambda a, b: mel_loss(a, b, 16000))(a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    ours = jax.jit(lambda w: log_mel(w, rate=16000, window=512, hop=128, bins=80))(a)
    np.testing.assert_allclose(ours, np.log(np.maximum(mel(a, 512, 80), 1e-5)), atol=1e-3)

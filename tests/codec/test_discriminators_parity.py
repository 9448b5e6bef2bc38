"""X-Codec2's discriminators, layer by layer with torch's own functions (there is no package)."""

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.discriminators import Discriminators
from llasa_jax.config import DiscriminatorConfig

pytestmark = pytest.mark.parity

CONFIG = DiscriminatorConfig(
    period_channels=(4, 8, 16, 32, 32), window_channels=(8, 16, 16, 32, 32)
)


@pytest.fixture(scope="module")
def both():
    """Features of every discriminator, ours and torch's, all in torch's layout."""
    torch = pytest.importorskip("torch")
    graphdef, shapes = nn.abstract(lambda rngs: Discriminators(CONFIG, rngs=rngs))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        x = rng.normal(size=leaf.shape).astype(np.float32)
        return 1 + 0.3 * np.abs(x) if path[-1].key == "gain" else x

    params = jax.tree_util.tree_map_with_path(fill, shapes)
    wave = (0.1 * rng.normal(size=(2, 4801))).astype(np.float32)
    ours = jax.jit(lambda p, x: nn.merge(graphdef, p)(x))(params, wave)
    x = torch.from_numpy(wave)
    theirs = [_period(torch, x, p, params["periods"][i]) for i, p in enumerate(CONFIG.periods)]
    theirs += [_window(torch, x, w, params["windows"][i]) for i, w in enumerate(CONFIG.windows)]
    return ours, theirs


def _layers(torch, x, params, strides, paddings, slope, to_torch):
    convs, features = params["judge"]["convs"], []
    for i in range(len(convs)):
        kernel, gain, bias = (torch.from_numpy(convs[i][n]) for n in ("kernel", "gain", "bias"))
        weight = torch._weight_norm(to_torch(kernel), gain[:, None, None, None], 0)
        x = torch.nn.functional.conv2d(x, weight, bias, strides[i], paddings[i])
        if i + 1 < len(convs):
            x = torch.nn.functional.leaky_relu(x, slope)
        features.append(x.numpy())
    return features


def _period(torch, x, period, params):
    missing = -x.shape[1] % period
    x = torch.nn.functional.pad(x[:, None], (0, missing), "reflect")
    x = x.view(x.shape[0], 1, -1, period)
    strides, paddings = [(3, 1)] * 4 + [(1, 1)] * 2, [(2, 0)] * 5 + [(1, 0)]
    to_torch = lambda k: k.permute(2, 1, 0)[..., None]  # noqa: E731
    return _layers(torch, x, params, strides, paddings, 0.1, to_torch)


def _window(torch, x, window, params):
    spectrum = torch.stft(
        x, window, window // 2, window, torch.hann_window(window), return_complex=True
    )
    power = spectrum.real**2 + spectrum.imag**2
    x = torch.sqrt(torch.clamp(power, 1e-7, 1e3))[:, None]
    strides, paddings = [2] * 4 + [1] * 2, [2] * 4 + [1] * 2
    to_torch = lambda k: k.permute(3, 2, 1, 0)  # noqa: E731
    return _layers(torch, x, params, strides, paddings, 0.2, to_torch)


def test_every_feature_is_torchs(both):
    for number, (ours, theirs) in enumerate(zip(*both, strict=True)):
        assert len(ours) == len(theirs) == 6
        for x, y in zip(ours, theirs, strict=True):
            if number < len(CONFIG.periods):  # [B * p, T, C] -> [B, C, T, p]
                x = np.asarray(x).reshape(2, -1, *x.shape[1:]).transpose(0, 3, 2, 1)
            else:  # [B, T, F, C] -> [B, C, F, T]
                x = np.asarray(x).transpose(0, 3, 2, 1)
            assert x.shape == y.shape
            np.testing.assert_allclose(x, y, atol=1e-4 * np.abs(y).max())

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llasa_jax import nn
from llasa_jax.codec.discriminators import Conv, Discriminators, SpectralDiscriminator
from llasa_jax.config import DiscriminatorConfig
from llasa_jax.errors import UserError

NANO = DiscriminatorConfig(
    periods=(2, 3), period_channels=(4, 8, 8), windows=(16, 26), window_channels=(4, 8)
)


@pytest.fixture(scope="module")
def nano():
    """(definition, parameters) of small discriminators."""
    return nn.split(Discriminators(NANO, rngs=nnx.Rngs(0)))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_full_size_has_x_codec2s_parameters():
    _, shapes = nn.abstract(lambda rngs: Discriminators(DiscriminatorConfig(), rngs=rngs))
    counts = {name: nn.parameter_count(part) for name, part in shapes.items()}
    assert counts == {"periods": 10_284_730, "windows": 18_097_936}  # 10.28 M and 18.10 M


def test_the_full_size_has_x_codec2s_layers():
    def run(rngs):
        return Discriminators(DiscriminatorConfig(), rngs=rngs)

    graphdef, shapes = nn.abstract(run)
    judge = lambda params, wave: nn.merge(graphdef, params)(wave)  # noqa: E731
    found = jax.eval_shape(judge, shapes, jax.ShapeDtypeStruct((2, 9600), jnp.float32))
    shape = [[feature.shape for feature in one] for one in found]
    # Five periods; strides of 3, rounded up, and one place more in the output.
    assert shape[2] == [
        *((10, 640, 16), (10, 214, 64), (10, 72, 256), (10, 24, 512), (10, 24, 512), (10, 25, 1))
    ]
    assert [one[0].shape[0] for one in found] == [4, 6, 10, 14, 22] + [2] * 8
    # Eight windows: 9600 // 1148 + 1 frames of 1149 bins, halved four times and rounded up.
    assert shape[12] == [
        *((2, 5, 575, 32), (2, 3, 288, 64), (2, 2, 144, 128), (2, 1, 72, 256)),
        *((2, 1, 72, 512), (2, 1, 72, 1)),
    ]
    assert shape[5][0] == (2, (9600 // 39 + 2) // 2, 20, 32)


def test_every_parameter_has_an_axis_name_or_none():
    graphdef, shapes = nn.abstract(lambda rngs: Discriminators(NANO, rngs=rngs))
    axes = nn.logical_axes(graphdef, shapes)
    judge = axes["windows"][0]["judge"]["convs"]
    assert judge[0]["kernel"] == (None, None, None, "embed")
    assert judge[2] == {"kernel": (None,) * 4, "gain": (None,), "bias": (None,)}  # one channel


def test_convolutions_start_as_pytorchs_do():
    conv = Conv(16, 64, (5, 5), ((2, 2), (2, 2)), rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(5 * 5 * 16)
    for leaf in (conv.kernel[...], conv.bias[...]):
        assert 0.95 * bound < np.abs(leaf).max() <= bound
        np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.2)
    # The gain is the kernel's norm: at first, weight norm changes nothing.
    norm = np.sqrt(np.sum(np.square(conv.kernel[...]), (0, 1, 2)))
    np.testing.assert_allclose(conv.gain[...], norm, rtol=1e-6)


def test_the_weights_are_the_kernels_direction_times_the_gain():
    conv = Conv(3, 4, (5,), ((2, 2),), rngs=nnx.Rngs(0))
    x = noise(1, 20, 3)
    before = conv(x) - conv.bias[...]
    conv.kernel[...] = 7 * conv.kernel[...]
    conv.gain[...] = jnp.arange(1.0, 5.0) * conv.gain[...]
    np.testing.assert_allclose(conv(x) - conv.bias[...], np.arange(1, 5) * before, rtol=1e-4)


def test_a_period_mixes_only_its_own_samples(nano):
    """With period 3 a change of sample 31 reaches row 31 % 3 = 1 of an item, and no other."""
    graphdef, params = nano
    wave = noise(2, 60)
    other = wave.copy()
    other[1, 31] += 1
    a, b = (nn.merge(graphdef, params)(x)[1] for x in (wave, other))
    for x, y in zip(a, b, strict=True):
        changed = np.any(np.asarray(x != y), axis=(1, 2))
        assert changed.tolist() == [False] * 4 + [True, False]


def test_a_wave_is_reflected_to_a_multiple_of_the_period(nano):
    graphdef, params = nano
    wave = noise(1, 61)
    longer = np.pad(wave, ((0, 0), (0, 2)), mode="reflect")
    judge = nn.merge(graphdef, params)
    for x, y in zip(judge(wave)[1], judge(longer)[1], strict=True):
        np.testing.assert_array_equal(x, y)


def test_features_follow_the_activation_and_the_judgement_does_not(nano):
    graphdef, params = nano
    found = nn.merge(graphdef, params)(noise(2, 200))
    for one, slope in zip(found, (0.1, 0.1, 0.2, 0.2), strict=True):
        assert len(one) == 4 if slope == 0.1 else 3
        for feature in one[:-1]:
            # What lies below zero was scaled: it is smaller than what lies above.
            assert 0 < -feature.min() < 3 * slope * feature.max()
        assert one[-1].shape[-1] == 1


def test_a_window_sees_magnitudes_clipped_below(nano):
    spectral = SpectralDiscriminator(16, (4, 8), rngs=nnx.Rngs(0))
    seen = []
    spectral.judge = lambda x: seen.append(x) or [x]
    wave = noise(1, 200)
    spectral(jnp.asarray(wave), jnp.float32)
    spectral(jnp.zeros((1, 200)), jnp.float32)
    padded = np.pad(wave[0], 8, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 16)[::8]
    size = np.abs(np.fft.rfft(frames * np.hanning(17)[:-1]))
    np.testing.assert_allclose(seen[0][0, ..., 0], np.maximum(size, 1e-7**0.5), rtol=1e-4)
    np.testing.assert_allclose(seen[1], 1e-7**0.5, rtol=1e-5)


def test_bfloat16_is_close(nano):
    graphdef, params = nano
    wave = noise(2, 300)
    half, _ = nn.split(Discriminators(NANO, jnp.bfloat16, rngs=nnx.Rngs(0)))
    for one, exact in zip(
        nn.merge(half, params)(wave), nn.merge(graphdef, params)(wave), strict=True
    ):
        assert one[-1].dtype == jnp.bfloat16
        size = np.abs(exact[-1]).max()
        np.testing.assert_allclose(one[-1].astype(jnp.float32), exact[-1], atol=0.05 * size)


@pytest.mark.parametrize(
    "settings",
    [{"windows": (77,)}, {"periods": (1,)}, {"period_channels": ()}, {"window_channels": (0,)}],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(UserError, match=r"gan\.discriminators"):
        DiscriminatorConfig(**settings)

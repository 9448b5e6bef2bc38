import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax.audio.kaldi import fbank, frame_sizes, stacked_fbank

RATE, HOP, BINS = 1600, 32, 8


def noise(*shape, seed=0):
    """Noise whose loudness changes over time by 40 dB."""
    rng = np.random.default_rng(seed)
    level = 10 ** np.sin(np.arange(shape[-1]) / 200)
    return (0.02 * level * rng.normal(size=shape)).astype(np.float32)


def by_definition(wave, rate, bins):
    """Kaldi's feature computation in float64, frame by frame."""
    window, shift = round(0.025 * rate), round(0.01 * rate)
    size = 2 ** int(np.ceil(np.log2(window)))
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    corners = np.linspace(mel(20), mel(rate / 2), bins + 2)
    at = mel(np.arange(size // 2 + 1) * rate / size)
    filters = np.stack([np.interp(at, corners[i : i + 3], [0, 1, 0]) for i in range(bins)], 1)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))) ** 0.85
    rows = []
    for start in range(0, len(wave) - window + 1, shift):
        x = np.float64(wave[start : start + window]) * 32768
        x -= x.mean()
        x = x - 0.97 * np.concatenate([x[:1], x[:-1]])
        power = np.abs(np.fft.rfft(x * povey, size)) ** 2
        rows.append(np.log(np.maximum(power @ filters, 2.0**-23)))
    return np.stack(rows)


@pytest.mark.parametrize(("rate", "bins"), [(16000, 80), (RATE, BINS), (8000, 23)])
def test_filter_banks_are_kaldis(rate, bins):
    wave = noise(2, rate // 2)
    found = jax.jit(lambda x: fbank(x, rate=rate, bins=bins))(wave)
    expected = np.stack([by_definition(row, rate, bins) for row in wave])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 399, 400, 559, 560, 880])
def test_incomplete_frames_are_dropped(samples):
    found = jax.eval_shape(lambda x: fbank(x, rate=16000, bins=80), jnp.zeros((2, samples)))
    assert found.shape == (2, max((samples - 400) // 160 + 1, 0), 80)


def test_silence_lies_on_the_floor_whatever_its_offset():
    found = fbank(jnp.stack([jnp.zeros(1000), jnp.full(1000, 0.25)]), rate=16000, bins=80)
    np.testing.assert_allclose(found, np.log(2.0**-23), rtol=1e-6)


@pytest.fixture(scope="module")
def stacked():
    @jax.jit(static_argnums=2)
    def run(wave, mask, edge):
        return stacked_fbank(wave, mask, rate=RATE, bins=BINS, edge=edge)

    return run


@pytest.mark.parametrize("edge", [0, HOP // 2])
@pytest.mark.parametrize("time", [1, 2, 3, 11])
def test_stacked_frames_are_normalised_over_the_item_alone(stacked, edge, time):
    wave = noise(1, time * HOP)
    found, valid = stacked(wave, np.ones((1, time), np.float32), edge)
    count = time - (edge == 0)
    assert found.shape == (1, time, 2 * BINS)
    np.testing.assert_array_equal(valid[0], np.arange(time) < count)
    assert np.all(found[0, count:] == 0)
    if count:
        banks = by_definition(np.pad(wave[0], edge), RATE, BINS)
        assert len(banks) == 2 * count
        spread = np.sqrt(banks.var(0, ddof=1) + 1e-7)
        expected = ((banks - banks.mean(0)) / spread).reshape(count, 2 * BINS)
        np.testing.assert_allclose(found[0, :count], expected, atol=1e-4)


@pytest.mark.parametrize("edge", [0, HOP // 2])
def test_padding_and_what_lies_in_it_change_nothing(stacked, edge):
    times = (9, 4, 1)
    batch, mask = np.full((3, 9 * HOP), np.nan, np.float32), np.zeros((3, 9), np.float32)
    for row, time in enumerate(times):
        batch[row, : time * HOP], mask[row, :time] = noise(time * HOP, seed=row), 1
    found, valid = stacked(batch, mask, edge)
    assert np.isfinite(found).all()
    for row, time in enumerate(times):
        alone, alone_valid = stacked(batch[row : row + 1, : time * HOP], mask[:1, :time], edge)
        np.testing.assert_array_equal(valid[row, :time], alone_valid[0])
        np.testing.assert_allclose(found[row, :time], alone[0], atol=1e-5)
        assert not valid[row, time:].any()


def test_frame_sizes_at_16_kilohertz():
    assert frame_sizes(16000) == (400, 160)

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal

from llasa_jax.audio import spectral


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same_stft(wave, hop):
    """STFT of 4 hops, centred on the middles of hops: what `istft_same` inverts."""
    edge = 3 * hop // 2
    padded = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(edge, edge)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4 * hop, axis=-1)[..., ::hop, :]
    return np.fft.rfft(frames * scipy.signal.get_window("hann", 4 * hop)).astype(np.complex64)


@pytest.mark.parametrize(("window", "hop"), [(8, 8), (12, 4), (10, 4), (7, 3)])
def test_frames_are_slices(window, hop):
    wave = noise(2, 41)
    found = spectral.frame(jnp.asarray(wave), window, hop)
    starts = range(0, 41 - window + 1, hop)
    np.testing.assert_array_equal(found, np.stack([wave[:, s : s + window] for s in starts], 1))


@pytest.mark.parametrize(("window", "hop", "samples"), [(64, 16, 200), (50, 20, 333)])
def test_stft_is_that_of_librosa_and_scipy(window, hop, samples):
    wave = noise(2, samples)
    found = spectral.stft(jnp.asarray(wave), window, hop)
    assert found.shape == (2, samples // hop + 1, window // 2 + 1)
    expected = librosa.stft(wave, n_fft=window, hop_length=hop, pad_mode="reflect")
    np.testing.assert_allclose(found, expected.transpose(0, 2, 1), atol=1e-4)
    hann = scipy.signal.get_window("hann", window)
    edged = np.pad(wave[0], window // 2, mode="reflect")
    _, _, middle = scipy.signal.stft(
        edged, window=hann, nperseg=window, noverlap=window - hop, boundary=None, padded=False
    )
    np.testing.assert_allclose(found[0], middle.T * hann.sum(), atol=1e-4)


@pytest.mark.parametrize(("window", "hop"), [(32, 8), (78, 39), (50, 20), (480, 160)])
def test_a_tpus_products_are_the_transforms(window, hop):
    wave = jnp.asarray(noise(2, 1000))
    expected = spectral._stft_by_fft(wave, window, hop)
    found = spectral._stft_by_products(wave, window, hop)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    back = spectral._irfft_by_products(expected, window)
    np.testing.assert_allclose(back, np.fft.irfft(expected, window), atol=1e-5)


def test_a_tpu_is_given_no_fft():
    def there_and_back(wave):
        return spectral._irfft(spectral.stft(wave, 64, 16), 64)

    traced = jax.jit(there_and_back).trace(jnp.zeros((1, 640)))
    text = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")}
    assert "stablehlo.fft" in text["cpu"] and "stablehlo.convolution" not in text["cpu"]
    assert "stablehlo.convolution" in text["tpu"] and "stablehlo.fft" not in text["tpu"]


@pytest.mark.parametrize(("fmin", "fmax"), [(0.0, None), (100.0, 3000.0)])
def test_log_mel_is_librosas_filters_on_a_numpy_stft(fmin, fmax):
    rate, window, hop, bins = 8000, 256, 64, 20
    wave = noise(2, 1000)
    wave[1, 300:] = 0
    found = spectral.log_mel(
        jnp.asarray(wave), rate=rate, window=window, hop=hop, bins=bins, fmin=fmin, fmax=fmax
    )
    edged = np.pad(np.float64(wave), ((0, 0), (window // 2, window // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(edged, window, axis=1)[:, ::hop]
    sizes = np.abs(np.fft.rfft(frames * scipy.signal.get_window("hann", window)))
    filters = librosa.filters.mel(sr=rate, n_fft=window, n_mels=bins, fmin=fmin, fmax=fmax)
    expected = np.log(np.maximum(sizes @ filters.T, 1e-5))
    assert found.shape == (2, 1000 // hop + 1, bins)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(found[1, -4:], np.log(1e-5), rtol=1e-6)  # the floor


def test_the_gradient_of_silence_is_finite():
    def loss(wave):
        return spectral.log_mel(wave, rate=8000, window=64, hop=16, bins=4).sum()

    assert np.isfinite(jax.grad(loss)(jnp.zeros(200))).all()


@pytest.fixture(scope="module")
def istft():
    return jax.jit(spectral.istft_same, static_argnums=1)


@pytest.mark.parametrize("hop", [8, 10])
def test_an_inverted_stft_is_the_wave(istft, hop):
    wave = noise(2, 9 * hop)
    spectrum = same_stft(wave, hop)
    assert spectrum.shape == (2, 9, 2 * hop + 1)
    found = istft(spectrum, hop, np.ones((2, 9), np.float32))
    np.testing.assert_allclose(found, wave, atol=2e-5)


def test_an_inverse_is_frames_added_and_divided_by_the_windows_added(istft):
    """By the definition, on a spectrum that is no wave's; imaginary DC and Nyquist are ignored."""
    hop, count = 8, 5
    spectrum = noise(count, 17) + 1j * noise(count, 17, seed=1)
    window = scipy.signal.get_window("hann", 4 * hop)
    total, envelope = np.zeros((2, (count + 3) * hop))
    for t, frame in enumerate(np.fft.irfft(spectrum, 4 * hop)):
        total[t * hop : (t + 4) * hop] += frame * window
        envelope[t * hop : (t + 4) * hop] += window**2
    middle = slice(12, 12 + count * hop)
    found = istft(spectrum.astype(np.complex64), hop, np.ones(count, np.float32))
    assert found.shape == (count * hop,)
    np.testing.assert_allclose(found, total[middle] / envelope[middle], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_padding_changes_no_sample_of_an_item(istft, count):
    hop, longest = 8, 9
    spectrum = (noise(2, longest, 17) + 1j * noise(2, longest, 17, seed=1)).astype(np.complex64)
    mask = np.float32(np.arange(longest) < [[longest], [count]])
    found = istft(spectrum, hop, mask)
    assert found.shape == (2, longest * hop) and np.isfinite(found).all()
    alone = istft(spectrum[1, :count], hop, np.ones(count, np.float32))
    np.testing.assert_array_equal(found[1, : count * hop], alone)

"""What the codec is trained to make small, of X-Codec2's recipe."""

import jax
import jax.numpy as jnp

from llasa_jax.audio.spectral import log_mel

# (window, mel bins) of the seven resolutions; the hop is a quarter of the window.
MEL_RESOLUTIONS = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))


def mel_loss(wave: jax.Array, target: jax.Array, rate: int) -> jax.Array:
    """Sum over seven resolutions of the mean L1 distance of log10 mel magnitudes.

    Args:
        wave, target: float32 [B, samples].

    Descript audio codec's multi-scale mel loss (Kumar et al. 2023), as X-Codec2 trains with it.
    """
    total = jnp.zeros(())
    for window, bins in MEL_RESOLUTIONS:
        mel = lambda x, w=window, b=bins: log_mel(x, rate=rate, window=w, hop=w // 4, bins=b)  # noqa: E731
        total += jnp.mean(jnp.abs(mel(wave) - mel(target))) / jnp.log(10.0)
    return total

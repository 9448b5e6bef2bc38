from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, ConvConfig, SemanticConfig, TransformerConfig

FRAMES = 11
RELEASED = CodecConfig(
    spectral=None,
    conv=ConvConfig(),
    semantic=SemanticConfig(),
    decoder=TransformerConfig(dim=1024, ffn=4096, layers=12, heads=16),
)


def runner(config):
    """Jitted (params, wave, mask) -> latents, codes, rebuilt and decoded wave."""
    graphdef, _ = nn.abstract(lambda rngs: Codec(config, rngs=rngs))

    @jax.jit
    def run(params, wave, mask):
        model = nn.merge(graphdef, params)
        latents = model.latents(wave, mask)
        codes, rebuilt = model.encode(wave, mask), model.rebuild(latents, mask)
        return latents, codes, rebuilt, model.decode(codes, mask)

    return lambda *inputs: jax.device_get(run(*inputs))


@pytest.fixture(scope="module", params=["tiny", "miniature"])
def codec(request):
    """(configuration, parameters), of either acoustic encoder."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def inputs(sound):
    """Two waves, the second followed by what its mask leaves out."""
    wave = np.stack([sound(FRAMES * 32), sound(FRAMES * 32)])
    return wave, np.float32(np.arange(FRAMES) < [[FRAMES], [7]])


@pytest.fixture(scope="module")
def found(codec, inputs):
    return runner(codec[0])(codec[1], *inputs)


def test_one_code_a_hop_and_a_hop_of_samples_a_code(codec, found):
    latents, codes, rebuilt, decoded = found
    assert latents.shape == (2, FRAMES, 3) and latents.dtype == np.float32
    assert codes.shape == (2, FRAMES) and codes.dtype == np.int32
    assert 0 <= codes.min() and codes.max() < codec[0].codebook_size == 60
    assert len(np.unique(codes)) > 5
    assert rebuilt.shape == (2, FRAMES * codec[0].hop) and np.abs(rebuilt).max() > 1e-3
    np.testing.assert_allclose(rebuilt, decoded, atol=1e-5 * np.abs(rebuilt).max())


def test_a_padded_item_has_the_codes_and_the_wave_it_has_alone(codec, inputs, found):
    wave, _ = inputs
    alone = runner(codec[0])(codec[1], wave[1:, : 7 * 32], np.ones((1, 7), np.float32))
    np.testing.assert_allclose(found[0][1, :7], alone[0][0], atol=1e-3)
    np.testing.assert_array_equal(found[1][1, :7], alone[1][0])
    peak = np.abs(alone[3]).max()
    np.testing.assert_allclose(found[3][1, : 7 * 32], alone[3][0], atol=1e-4 * peak)


def test_scanned_and_unrolled_layers_agree(tiny, inputs):
    config, params = tiny
    unrolled = runner(replace(config, scan_layers=False))(params, *inputs)
    for a, b in zip(runner(config)(params, *inputs), unrolled, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(a).max())


def test_both_branches_are_heard_and_the_frozen_one_takes_no_gradient(miniature, inputs):
    config, params = miniature
    graphdef, _ = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
    wave, mask = inputs

    @jax.jit
    @jax.grad
    def slope(params):
        return jnp.sum(jnp.square(nn.merge(graphdef, params).latents(wave, mask)))

    slopes = slope(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(slopes["semantic"]["model"]))
    for part in (slopes["encoder"], slopes["semantic"]["adapter"], slopes["fc_prior"]):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))


def test_bfloat16_is_near_and_decides_in_float32(tiny, inputs):
    config, params = tiny
    exact = runner(config)(params, *inputs)
    half = runner(replace(config, compute_dtype="bfloat16"))(params, *inputs)
    assert [a.dtype for a in half] == [a.dtype for a in exact]
    valid = inputs[1] > 0
    error = (half[0] - exact[0])[valid]
    assert 0 < np.abs(error).max() and error.std() < 0.05 * exact[0][valid].std()


def test_the_released_size_has_the_released_parameters():
    """Of the checkpoint's 822.74 M, with 16 instead of 24 conformer layers."""
    _, params = nn.abstract(lambda rngs: Codec(RELEASED, rngs=rngs))
    count = nn.parameter_count
    assert round(count(params["encoder"]) / 1e6, 2) == 38.46
    assert round(count(params["semantic"]["model"]) / 1e6, 2) == 387.05
    assert round(count(params["semantic"]["adapter"]) / 1e6, 3) == 12.585
    assert round(count(params["fc_prior"]) / 1e6, 3) == 4.196
    assert count(params["quantizer"]) == 34824
    assert round(count(params["fc_post"]) / 1e6, 3) == 2.098
    assert round(count([params["decoder"], params["quantizer"]]) / 1e6, 2) == 184.90
    assert round(count(params) / 1e6, 1) == 629.3

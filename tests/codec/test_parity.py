"""The codec against transformers' Xcodec2 at a small size: same random weights, same results."""

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.audio.spectral import log_mel, stft
from llasa_jax.codec.losses import MEL_RESOLUTIONS, mel_loss
from llasa_jax.codec.model import Codec
from llasa_jax.codec.quantizer import to_codes, to_grid
from llasa_jax.config import CodecConfig, SpectralConfig, TransformerConfig

pytestmark = pytest.mark.parity

FUSED, DIM, LAYERS = 128, 64, 2
CONFIG = CodecConfig(
    spectral=SpectralConfig(transformer=TransformerConfig(dim=FUSED, ffn=32, layers=1, heads=4)),
    decoder=TransformerConfig(dim=DIM, ffn=160, layers=LAYERS, heads=4),
)
THRESHOLDS = np.array([-0.80943, -0.243405, 0.407885])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def theirs(torch):
    """transformers' quantizer and decoder, every parameter random: norms and biases as well."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Xcodec2Config"):
        pytest.fail(f"transformers {transformers.__version__} has no Xcodec2: take 5.23 or later")
    from transformers.models.xcodec2.modeling_xcodec2 import Xcodec2Decoder, Xcodec2Quantizer

    config = transformers.Xcodec2Config(
        hidden_size=DIM,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=DIM // 4,
        quantization_dim=FUSED,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        semantic_model_config={"model_type": "wav2vec2-bert", "hidden_size": FUSED - DIM},
        attn_implementation="eager",
    )
    generator = torch.Generator().manual_seed(0)
    modules = Xcodec2Quantizer(config).eval(), Xcodec2Decoder(config).eval()
    with torch.no_grad():
        for module in modules:
            for name, weight in module.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                if weight.ndim == 1:
                    weight.copy_(0.3 * noise + float("norm" in name and "weight" in name))
                else:
                    weight.copy_(noise * weight[0].numel() ** -0.5)
        head = modules[1].head.linear
        head.weight.mul_(2)  # magnitudes over three decades, some over the clip at 100
    return modules


@pytest.fixture(scope="module")
def ours(theirs):
    """Our jitted quantizer and decoder with their weights, by name."""
    quantizer, decoder = ({k: v.detach().numpy() for k, v in m.named_parameters()} for m in theirs)
    used = set()

    def take(source, name):
        used.add((id(source), name))
        return source[name]

    def linear(source, name, bias=True):
        kernel = {"kernel": take(source, f"{name}.weight").T}
        return kernel | ({"bias": take(source, f"{name}.bias")} if bias else {})

    def conv(name):
        kernel = take(decoder, f"{name}.weight").transpose(2, 1, 0)
        return {"kernel": kernel, "bias": take(decoder, f"{name}.bias")}

    def norm(name):
        return {"scale": take(decoder, f"{name}.weight"), "bias": take(decoder, f"{name}.bias")}

    def resnet(name):
        parts = ("norm1", norm), ("conv1", conv), ("norm2", norm), ("conv2", conv)
        return {part: read(f"{name}.{part}") for part, read in parts}

    def layer(name):
        projections = [take(decoder, f"{name}.self_attn.{x}_proj.weight").T for x in "qkv"]
        return {
            "att_norm": {"scale": take(decoder, f"{name}.input_layernorm.weight")},
            "c_attn": {"kernel": np.concatenate(projections, 1)},
            "c_proj": linear(decoder, f"{name}.self_attn.o_proj", bias=False),
            "ffn_norm": {"scale": take(decoder, f"{name}.post_attention_layernorm.weight")},
            "fc1": linear(decoder, f"{name}.mlp.fc1", bias=False),
            "fc2": linear(decoder, f"{name}.mlp.fc2", bias=False),
        }

    def stack(*parts):
        return {"layers": jax.tree.map(lambda *leaves: np.stack(leaves), *parts)}

    params = {
        "quantizer": {x: linear(quantizer, x) for x in ("project_in", "project_out")},
        "fc_post": linear(decoder, "fc"),
        "decoder": {
            "embed": conv("embed"),
            "backbone": {
                "prior": stack(*(resnet(f"prior_net.{i}") for i in (0, 1))),
                "transformers": stack(*(layer(f"layers.{i}") for i in range(LAYERS))),
                "post": stack(*(resnet(f"post_net.{i}") for i in (0, 1))),
                "norm": norm("norm"),
            },
            "head": linear(decoder, "head.linear"),
        },
    }
    assert len(used) == len(quantizer) + len(decoder)  # every weight of theirs has a place
    graphdef, template = nn.abstract(lambda rngs: Codec(CONFIG, rngs=rngs))
    params["encoder"] = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), template["encoder"])
    shapes = jax.tree.map(lambda leaf: leaf.shape, template)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, params)

    def quantize(x):
        model = nn.merge(graphdef, params)
        latents = model.quantizer.latents(x)
        return latents, model.quantizer.codes(latents), model.quantizer.features(latents)

    def decode(codes, mask):
        return nn.merge(graphdef, params).decode(codes, mask)

    return jax.jit(quantize), jax.jit(decode)


def test_codes_are_those_of_transformers(torch, theirs, ours):
    x = np.random.default_rng(1).normal(size=(8, 1000, FUSED)).astype(np.float32)
    with torch.no_grad():
        features, codes = theirs[0](torch.from_numpy(x))
    codes = codes.numpy()[..., 0]
    latents, found, quantised = map(np.asarray, ours[0](x))
    assert len(np.unique(codes)) >= 1000
    for place in range(8):
        assert len(np.unique(codes // 4**place % 4)) == 4  # all levels of each dimension
    differ = codes != found
    assert differ.mean() <= 0.001
    gaps = np.abs(latents[..., None] - THRESHOLDS).min((-1, -2))
    assert np.all(gaps[differ] < 1e-3)
    np.testing.assert_allclose(quantised[~differ], features.numpy()[~differ], atol=1e-5)


def test_all_codes_stand_for_the_grid_points_of_transformers(torch, theirs):
    every = np.arange(65536)
    with torch.no_grad():
        grid = theirs[0].quantizer.codebook[torch.from_numpy(every)].numpy()
    np.testing.assert_array_equal(to_grid(every, CONFIG.levels), grid)
    np.testing.assert_array_equal(to_codes(grid, CONFIG.levels), every)


def test_waves_are_those_of_transformers(torch, theirs, ours):
    frames = (61, 40)
    codes = np.random.default_rng(2).integers(0, 65536, (2, frames[0]))
    mask = np.float32(np.arange(frames[0]) < np.array(frames)[:, None])
    found = np.asarray(ours[1](codes, mask))
    for row, count in enumerate(frames):
        with torch.no_grad():
            some = torch.from_numpy(codes[row, :count])[None, :, None]
            wave = theirs[1](theirs[0].from_codes(some)).numpy()[0, 0]
        peak = np.abs(wave).max()
        assert wave.shape == (count * CONFIG.hop,) and peak > 0
        # The second row is padded here and alone there.
        assert np.abs(found[row, : count * CONFIG.hop] - wave).max() <= 1e-4 * peak


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

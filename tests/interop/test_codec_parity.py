"""Codecs against transformers' Xcodec2Model and NeuCodecModel: one set of weights, both ways.

Released size: `pytest --parity --slow -s tests/interop/test_codec_parity.py` takes 10 GB and
some minutes; -s shows the differences.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from llasa_jax import nn
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig
from llasa_jax.interop.weights import WEIGHTS, Weights
from llasa_jax.interop.xcodec2 import export_codec, import_codec

pytestmark = pytest.mark.parity

THRESHOLDS = np.array([-0.80943, -0.243405, 0.407885])
SINGLE_BOUND = np.array([-1.14972, -0.346195, 0.457325])  # thresholds of one bound alone
MASKED = "semantic_encoder.masked_spec_embed"  # of pre-training: not ours, and not exported
WAVES, FRAMES, DECODED = 3, 480, 300

MINIATURE = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=32,
    encoder_hidden_size=4,
    quantization_dim=96,
    semantic_model_config=dict(
        model_type="wav2vec2-bert",
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        conv_depthwise_kernel_size=7,
        left_max_position_embeddings=9,
        right_max_position_embeddings=3,
    ),
)
NARROW = dict(
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=2,
    encoder_hidden_size=12,
    quantization_dim=224,
    semantic_model_config=dict(
        model_type="wav2vec2-bert",
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=3,
    ),
)
SIZES = {"miniature": MINIATURE, "narrow": NARROW, "released": {}}


@dataclass
class Case:
    """What both sides made of the same weights.

    Attributes:
        folder, exported: theirs as transformers saved it, and ours of that, exported again.
        features, latents, codes, waves: (theirs, ours); encoder features [n, T, D] before the
            quantiser, what the FSQ rounds [n, T, 8], codes [n, T], decoded waves [2, samples].
    """

    config: CodecConfig
    folder: Path
    exported: Path
    features: tuple[np.ndarray, np.ndarray]
    latents: tuple[np.ndarray, np.ndarray]
    codes: tuple[np.ndarray, np.ndarray]
    waves: tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def their_class(name):
    transformers = pytest.importorskip("transformers")
    found = getattr(transformers, f"{name}Model", None)
    if found is None:
        pytest.fail(f"transformers {transformers.__version__} has no {name}: take 5.23 or later")
    return found, getattr(transformers, f"{name}Config")


def randomise(torch, model):
    """Every parameter random; outputs of weights differ in norm, as with trained weight norm."""
    generator = torch.Generator().manual_seed(0)
    noise = lambda shape: torch.empty(shape).normal_(generator=generator)  # noqa: E731
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "distance_embedding" in name:
                weight.copy_(noise(weight.shape))
            elif weight.ndim > 1:
                weight.copy_(noise(weight.shape)).mul_(weight[0].numel() ** -0.5)
                weight.mul_(torch.exp(0.3 * noise((len(weight), *[1] * (weight.ndim - 1)))))
            else:
                weight.copy_(0.3 * noise(weight.shape) + float("norm" in name and "weight" in name))
            # Both branches are to move with time about equally, more than they stand off zero.
            if "acoustic_encoder" in name and weight.ndim > 1:
                weight.mul_(0.4 if "res_unit" in name else 0.8)
            elif "acoustic_encoder" in name and "bias" in name:
                weight.mul_(0.3)
        model.acoustic_encoder.conv1.weight.mul_(8)
        model.acoustic_decoder.head.linear.weight.mul_(2)  # some magnitudes are over the clip


def inputs(frames):
    """Noise whose colour and loudness change from hop to hop: [WAVES, frames * 320]."""
    rng = np.random.default_rng(1)
    size = frames * 320
    loudness = np.repeat(10 ** rng.uniform(-2, -0.3, (WAVES, frames)), 320, 1)
    turns = np.repeat(rng.uniform(0.01, 0.5, (WAVES, frames)), 320, 1)
    tone = np.sin(2 * np.pi * np.cumsum(turns, 1))
    return np.float32(loudness * (0.5 * tone + 0.5 * rng.uniform(-1, 1, (WAVES, size))))


def fbank(waves, edge):
    """Filter banks by transformers' numpy extractor, the original's: [n, T, 160]."""
    from transformers import SeamlessM4TFeatureExtractor

    extractor = SeamlessM4TFeatureExtractor(padding_value=1)
    padded = list(np.pad(waves, ((0, 0), (edge, edge))))
    return extractor(padded, sampling_rate=16000, return_tensors="pt")["input_features"]


def their_results(torch, model, waves, codes, edge):
    """(features, latents, codes, decoded waves), the quantiser scaled so that all levels occur."""
    banks = fbank(waves, edge)
    kept = []
    hook = model.fc_encoder.register_forward_hook(lambda *call: kept.append(call[-1]))

    def encode(i):
        found = model.encode(torch.from_numpy(waves[i, None, None]), banks[i, None])
        return found.audio_codes[0, 0].numpy()

    with torch.no_grad():
        for i in range(len(waves)):
            encode(i)
        features = torch.cat(kept)
        project = model.quantizer.project_in
        spread = project(features).std((0, 1))
        project.weight.mul_(0.8 / spread[:, None])
        project.bias.copy_(-0.2 - project(features).mean((0, 1)) + project.bias)
        hook.remove()
        latents = project(features)
        indices = model.quantizer(features)[1][..., 0].numpy()
        np.testing.assert_array_equal(encode(0), indices[0])  # as encode itself finds them
        decoded = [model.decode(torch.from_numpy(c)[None, None]).audio_values for c in codes]
    waves = torch.cat(decoded)[:, 0].numpy()
    return features.numpy(), latents.numpy(), indices, waves


def our_results(config, params, waves, codes):
    graphdef, _ = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
    params = jax.device_put(params)

    @jax.jit
    def encode(params, wave):
        model, mask = nn.merge(graphdef, params), jnp.ones((1, FRAMES))
        found = model.semantic(wave, mask), model.encoder(wave, mask)
        features = model.fc_prior(jnp.concatenate(found, -1))
        latents = model.quantizer.latents(features)
        return features, latents, model.quantizer.codes(latents)

    @jax.jit
    def decode(params, codes):
        return nn.merge(graphdef, params).decode(codes, jnp.ones(codes.shape))

    found = [encode(params, wave[None]) for wave in waves]
    encoded = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    return *encoded, np.asarray(decode(params, codes))


LONG = (pytest.mark.slow, pytest.mark.timeout(3600))
CASES = [
    pytest.param((name, size), id=f"{name}-{size}", marks=LONG if size == "released" else ())
    for size in SIZES
    for name in ("Xcodec2", "NeuCodec")
]


@pytest.fixture(scope="module", params=CASES)
def case(request, torch, tmp_path_factory):
    name, size = request.param
    model_class, config_class = their_class(name)
    folder = tmp_path_factory.mktemp("theirs")
    edge, exported = 160 if name == "Xcodec2" else 0, folder / "ours"
    model = model_class(config_class(**SIZES[size])).eval()
    randomise(torch, model)
    waves = inputs(FRAMES)
    codes = np.random.default_rng(2).integers(0, 65536, (2, DECODED))
    theirs = their_results(torch, model, waves, codes, edge)
    model.save_pretrained(folder)
    del model
    found = import_codec(Weights(folder))
    export_codec(exported, found.layout, found.config, found.params)
    config, params = found.config, found.params
    assert config.semantic.edge == edge and config.output_hop == (320 if edge else 480)
    ours = our_results(config, params, waves, codes)
    # NeuCodec has no code for an item's last frame.
    frames = theirs[0].shape[1]
    ours = [x[:, :frames] for x in ours[:3]] + [ours[3]]
    yield Case(config, folder, exported, *zip(theirs, ours, strict=True))
    for path in (folder / WEIGHTS, exported / WEIGHTS):
        path.unlink()


def test_encoder_features_are_those_of_transformers(case):
    theirs, ours = case.features
    assert theirs.shape == (WAVES, FRAMES - (case.config.semantic.edge == 0), case.config.fused_dim)
    worst = (np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)).max()
    print(f"\nfeatures: relative error of the worst frame {worst:.1e}")
    assert worst <= 1e-3


def test_codes_are_those_of_transformers(case):
    theirs, ours = case.codes
    used = len(np.unique(theirs))
    levels = [len(np.unique(theirs // 4**place % 4)) for place in range(8)]
    assert used >= 1000 and levels == [4] * 8
    differ = ours != theirs
    gaps = np.abs(case.latents[0][..., None] - THRESHOLDS).min((-1, -2))
    print(f"\ncodes: {differ.sum()} of {differ.size} differ, {used} different ones")
    assert differ.mean() <= 0.001
    assert np.all(gaps[differ] < 1e-3)


def test_codes_need_both_bounds(case):
    """What the thresholds say is what both sides found; those of one bound would not do."""
    digits = (case.latents[0][..., None] > THRESHOLDS).sum(-1)
    codes = (digits * 4 ** np.arange(8)).sum(-1)
    assert (codes == case.codes[0]).mean() > 0.99
    digits = (case.latents[0][..., None] > SINGLE_BOUND).sum(-1)
    assert ((digits * 4 ** np.arange(8)).sum(-1) == case.codes[0]).mean() < 0.7


def test_waves_are_those_of_transformers(case):
    theirs, ours = case.waves
    assert theirs.shape == ours.shape == (2, DECODED * case.config.output_hop)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"\nwaves: largest error {error:.1e} of the peak")
    assert error <= 1e-4


def test_what_we_export_transformers_loads(case, torch):
    """No key missing or unexpected, every number as it was, and so the same wave."""
    model_class, _ = their_class("Xcodec2" if case.config.semantic.edge else "NeuCodec")
    with (
        safe_open(case.folder / WEIGHTS, "np") as one,
        safe_open(case.exported / WEIGHTS, "np") as two,
    ):
        assert set(one.keys()) - {MASKED} == set(two.keys())
        for name in two.keys():  # noqa: SIM118
            np.testing.assert_array_equal(one.get_tensor(name), two.get_tensor(name), name)
    model, report = model_class.from_pretrained(case.exported, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    codes = np.random.default_rng(2).integers(0, 65536, (2, DECODED))
    with torch.no_grad():
        wave = model.eval().decode(torch.from_numpy(codes[:1])[None]).audio_values[0, 0].numpy()
    np.testing.assert_allclose(wave, case.waves[0][0], atol=1e-6 * np.abs(wave).max())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_an_original_by_torch_is_read_without_torch(codecs, torch, tmp_path):
    """A state dict and a Lightning checkpoint; weight norm is torch's own."""
    config, params = codecs["xcodec2"]
    export_codec(tmp_path, "xcodec2", config, params)
    from safetensors.torch import load_file

    state = load_file(tmp_path / WEIGHTS)
    torch.save(state, tmp_path / "pytorch_model.bin")
    lightning = {"epoch": 4, "state_dict": state, "optimizer_states": [], "loops": {"fit": None}}
    torch.save(lightning, tmp_path / "epoch=4.ckpt")
    for name in ("pytorch_model.bin", "epoch=4.ckpt"):
        found = import_codec(Weights(tmp_path / name))
        assert found.config == config
        jax.tree.map(np.testing.assert_array_equal, found.params, params)

    conv = torch.nn.utils.weight_norm(torch.nn.Conv1d(8, 8, 7, dilation=3, padding=9))
    prefix = "CodecEnc.conv_blocks.3.block.1.block.1."
    mine = [name for name in state if name.startswith(prefix)]
    conv.load_state_dict({name.removeprefix(prefix): state[name] for name in mine}, strict=True)
    x = np.random.default_rng(0).standard_normal((1, 40, 8), np.float32)
    graphdef, _ = nn.abstract(lambda rngs: Codec(config, rngs=rngs))
    ours = nn.merge(graphdef, params).encoder.blocks[2].unit2.conv1(x)
    with torch.no_grad():
        theirs = conv(torch.from_numpy(x.transpose(0, 2, 1).copy())).numpy()
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 1), atol=1e-4)

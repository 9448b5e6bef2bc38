"""WavLM with ECAPA-TDNN: padding changes nothing, and the published originals agree."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import WavlmConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten
from llasa_jax.interop.layouts import views
from llasa_jax.interop.wavlm import MIXTURE, import_wavlm, table
from llasa_jax.interop.weights import write_tensors
from llasa_jax.verifiers.protocol import score_all
from llasa_jax.verifiers.wavlm import (
    WavlmSpeaker,
    distance_buckets,
    wavlm_definition,
    wavlm_verifier,
)

SIZES = dict(channels=16, dim=32, ffn=48, heads=4, layers=2, position_width=8, position_groups=4)
SPEAKER = dict(speaker_channels=16, pooled=24, bottleneck=8, scale=4, embedding=12)
SMALL = WavlmConfig(**SIZES, **SPEAKER)
LARGE = WavlmConfig()
PEERS = os.environ.get("LLASA_PEERS", "")
SIZED = [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(lambda rngs: WavlmSpeaker(SMALL, rngs=rngs))


def tensors_of(config: WavlmConfig, params: dict) -> dict[str, np.ndarray]:
    flat = flatten(params)
    tensors = {MIXTURE: flat.pop(f"wavlm.{MIXTURE}")}
    for key, leaf in flat.items():
        tensors |= views(table(config.scale), key, leaf)
    return tensors


def test_a_voice_is_most_like_itself_whatever_its_padding(params, speech_like, candidates_of):
    verifier = wavlm_verifier(SMALL, params)
    waves = speech_like(16000, 9000, 200)
    target = verifier.reference("", waves[0])
    scores = score_all([verifier], candidates_of(waves, 20000), [target])["wavlm"]
    np.testing.assert_allclose(scores[0], 1.0, atol=1e-5)
    assert scores[1] < 0.999 and np.isfinite(scores[2])
    with pytest.raises(UserError, match="needs a wave"):
        verifier.reference("text", None)


def test_what_was_published_comes_in_whole(tmp_path, params):
    path = tmp_path / "model.safetensors"
    extra = {"layer1.bn.num_batches_tracked": np.zeros(1), "loss_calculator.w": np.zeros(3)}
    tensors = tensors_of(SMALL, params)
    write_tensors(path, tensors | extra)
    with pytest.raises(UserError, match="pos_conv.0.parametrizations|pos_conv.0.weight_v"):
        import_wavlm(path)  # weight norm is how it is published
    write_tensors(path, normed(tensors) | extra)
    config, imported = import_wavlm(path)
    assert config == SMALL
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), imported, params)
    write_tensors(path, normed(tensors) | {"more": np.zeros(3)})
    with pytest.raises(UserError, match="more has no place"):
        import_wavlm(path)


def normed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with the weight norm that is published: any length of v gives the same weight."""
    name = "feature_extract.model.encoder.pos_conv.0.weight"
    rest = dict(tensors)
    weight = rest.pop(name)
    gain = np.sqrt(np.square(weight).sum((0, 1), keepdims=True))
    return rest | {f"{name}_g": gain, f"{name}_v": 3 * weight}


def test_buckets_follow_the_rule():
    buckets = distance_buckets(1000, 320, 800)
    assert buckets[5, 5] == 0 and buckets[5, 4] == 1 and buckets[4, 5] == 161
    assert buckets[0, 79] == 160 + 79 and buckets[79, 0] == 79 and buckets[900, 0] == 159
    assert (np.diff(buckets[:, 0]) >= 0).all() and buckets.max() == 319


def run(config, params, batch):
    def both(params, waves, lengths):
        model = nn.merge(wavlm_definition(config), params)
        heard, mask = model.wavlm(waves, lengths)
        embedding = model.ecapa(heard, mask)
        return heard, mask, embedding

    return [np.asarray(x) for x in jax.jit(both)(params, batch.waves, batch.lengths)]


def away(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


RENAMED = (
    (
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
        "encoder.pos_conv.0.weight_g",
    ),
    (
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
        "encoder.pos_conv.0.weight_v",
    ),
    ("encoder.pos_conv_embed.conv", "encoder.pos_conv.0"),
    (".conv.", ".0."),
    ("feature_projection.layer_norm", "layer_norm"),
    ("feature_projection.projection", "post_extract_proj"),
    ("attention.gru_rel_pos_const", "attention.grep_a"),
    ("attention.gru_rel_pos_linear", "attention.grep_linear"),
    ("attention.rel_attn_embed", "attention.relative_attention_bias"),
    (".attention.", ".self_attn."),
    ("feed_forward.intermediate_dense", "fc1"),
    ("feed_forward.output_dense", "fc2"),
    ("masked_spec_embed", "mask_emb"),
)


def as_unispeech(name: str) -> str:
    """transformers' name of a WavLM tensor -> that of the original."""
    if name.startswith("encoder.layers") and ".layer_norm" in name:
        name = name.replace(".layer_norm", ".self_attn_layer_norm")
    if name.startswith("feature_extractor"):
        name = name.replace(".layer_norm", ".2.1")
    for theirs, original in RENAMED:
        name = name.replace(theirs, original)
    return f"feature_extract.model.{name}"


@pytest.mark.parity
@pytest.mark.parametrize("config", SIZED, ids=["narrow", "large"])
def test_layers_are_those_of_transformers(
    tmp_path, config, random_params, randomise, speech_like, candidates_of
):
    import torch
    import transformers

    made = transformers.WavLMConfig(
        hidden_size=config.dim,
        intermediate_size=config.ffn,
        num_attention_heads=config.heads,
        num_hidden_layers=config.layers,
        num_conv_pos_embeddings=config.position_width,
        num_conv_pos_embedding_groups=config.position_groups,
        conv_dim=[config.channels] * 7,
        conv_bias=False,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_buckets=config.buckets,
        max_bucket_distance=config.farthest,
    )
    model = randomise(transformers.WavLMModel(made))
    ours = tensors_of(config, random_params(lambda rngs: WavlmSpeaker(config, rngs=rngs)))
    tensors = {k: v for k, v in ours.items() if not k.startswith("feature_extract.")}
    tensors |= {as_unispeech(name): value.numpy() for name, value in model.state_dict().items()}
    write_tensors(tmp_path / "model.safetensors", tensors)
    weights = torch.tensor(tensors[MIXTURE]).softmax(0)
    waves, expected = speech_like(20000, 15001), []
    for wave in waves:
        normal = torch.nn.functional.layer_norm(torch.from_numpy(wave), wave.shape)
        with torch.no_grad():
            given = model(normal[None], output_hidden_states=True)
        states = [*given.hidden_states[:-1], given.last_hidden_state]
        expected.append(sum(w * x for w, x in zip(weights, states, strict=True))[0].numpy())
    del model, ours, tensors  # before its gigabyte is there twice more
    found, params = import_wavlm(tmp_path / "model.safetensors")
    assert found == config
    heard, mask, _ = run(config, params, candidates_of(waves, 20480))
    assert mask.sum(1).tolist() == [len(wanted) for wanted in expected]
    error = max(away(heard[row, : len(wanted)], wanted) for row, wanted in enumerate(expected))
    print(f"\nWavLM of {config.layers} layers: {error:.1e} of the largest feature")
    assert error < 1e-4 and expected[0].std() > 0.1


def unispeech():
    """The original's modules: WavLM, and its speaker encoder with a stand-in for s3prl."""
    root = Path(PEERS) / "UniSpeech"
    if not PEERS or not root.is_dir():
        pytest.skip(
            "no original: clone github.com/microsoft/UniSpeech (CC BY-SA 3.0, never part of this "
            "project) into a folder, and name that folder in LLASA_PEERS"
        )
    import torch

    def load(name: str, path: Path, **stubs: types.ModuleType) -> types.ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules.update({name: module} | stubs)
        spec.loader.exec_module(module)
        return module

    layers = load("modules", root / "WavLM" / "modules.py")
    wavlm = load("unispeech_wavlm", root / "WavLM" / "WavLM.py", modules=layers)

    class Expert(torch.nn.Module):
        """As s3prl's: each wave normalised, the input of every layer, and the encoder's output."""

        def __init__(self, settings):
            super().__init__()
            self.model = wavlm.WavLM(wavlm.WavLMConfig(settings))

        def forward(self, waves):
            states = []
            hooks = [
                layer.register_forward_pre_hook(lambda _, x: states.append(x[0].transpose(0, 1)))
                for layer in self.model.encoder.layers
            ]
            waves = [torch.nn.functional.layer_norm(wave, wave.shape) for wave in waves]
            states.append(self.model.extract_features(torch.stack(waves))[0])
            for hook in hooks:
                hook.remove()
            return {"hidden_states": states}

    folder = root / "downstreams" / "speaker_verification" / "models"
    package, utils = types.ModuleType("unispeech_models"), types.ModuleType("utils")
    package.__path__, utils.UpstreamExpert = [str(folder)], Expert
    audio, transforms = types.ModuleType("torchaudio"), types.ModuleType("torchaudio.transforms")
    audio.transforms = transforms
    stubs = {
        "unispeech_models": package,
        "unispeech_models.utils": utils,
        "torchaudio": audio,
        "torchaudio.transforms": transforms,
    }
    kept = {name: sys.modules.get(name) for name in ("modules", "torchaudio")}
    try:
        return load("unispeech_models.ecapa_tdnn", folder / "ecapa_tdnn.py", **stubs)
    finally:
        for name, module in {"torchaudio.transforms": None, **kept}.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.mark.parity
@pytest.mark.parametrize("config", SIZED, ids=["narrow", "large"])
def test_embeddings_are_those_of_the_original(
    tmp_path, config, randomise, speech_like, candidates_of
):
    import torch

    original = unispeech()
    settings = {
        "extractor_mode": "layer_norm",
        "encoder_layers": config.layers,
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.ffn,
        "encoder_attention_heads": config.heads,
        "layer_norm_first": True,
        "conv_feature_layers": f"[({config.channels},10,5)] + [({config.channels},3,2)] * 4 + "
        f"[({config.channels},2,2)] * 2",
        "normalize": True,
        "conv_pos": config.position_width,
        "conv_pos_groups": config.position_groups,
        "relative_position_embedding": True,
        "num_buckets": config.buckets,
        "max_distance": config.farthest,
        "gru_rel_pos": True,
    }
    # The original's numbers of pooled channels and parts are fixed: 1536 and 8.
    model = randomise(
        original.ECAPA_TDNN(
            feat_dim=config.dim,
            channels=config.speaker_channels,
            emb_dim=config.embedding,
            feat_type="wavlm_large",
            config_path=settings,
        )
    )
    torch.save({"model": model.state_dict()}, tmp_path / "wavlm_large_finetune.pth")
    waves = speech_like(20000, 15001)
    with torch.no_grad():
        expected = [model(torch.from_numpy(wave)[None])[0].numpy() for wave in waves]
    del model  # before its gigabyte is there twice more
    found, params = import_wavlm(tmp_path / "wavlm_large_finetune.pth")
    assert (found.dim, found.layers, found.scale) == (config.dim, config.layers, 8)
    _, _, embeddings = run(found, params, candidates_of(waves, 20480))
    error = max(away(*pair) for pair in zip(embeddings, expected, strict=True))
    ours, theirs = (np.dot(*(x / np.linalg.norm(x) for x in y)) for y in (embeddings, expected))
    print(f"\nECAPA-TDNN on {config.layers} layers: {error:.1e}; cosine {ours:.6f}, {theirs:.6f}")
    assert error < 1e-4 and abs(ours - theirs) < 1e-5 and theirs < 0.99999

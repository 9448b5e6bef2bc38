"""emotion2vec+: padding changes nothing, its file comes in whole, and FunASR's original agrees."""

import os
import sys
import types
from importlib import import_module
from pathlib import Path

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import Emotion2vecConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten
from llasa_jax.interop.emotion2vec import import_emotion2vec, table
from llasa_jax.interop.layouts import views
from llasa_jax.interop.weights import write_tensors
from llasa_jax.verifiers.emotion2vec import (
    Emotion2vec,
    emotion2vec_definition,
    emotion2vec_verifier,
    slopes,
)
from llasa_jax.verifiers.protocol import score_all

SIZES = dict(channels=16, dim=32, ffn=128, heads=4, layers=2, position_width=5, position_groups=4)
SMALL = Emotion2vecConfig(**SIZES, prenet=1, position_layers=2, extra=3)
LARGE = Emotion2vecConfig()
PEERS = os.environ.get("LLASA_PEERS", "")


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(lambda rngs: Emotion2vec(SMALL, rngs=rngs))


def test_an_utterance_is_most_like_itself_whatever_its_padding(params, speech_like, candidates_of):
    verifier = emotion2vec_verifier(SMALL, params)
    waves = speech_like(16000, 9000, 200)
    target = verifier.reference("", waves[0])
    scores = score_all([verifier], candidates_of(waves, 20000), [target])["emotion2vec"]
    np.testing.assert_allclose(scores[0], 1.0, atol=1e-5)
    assert scores[1] < 0.9999 and np.isfinite(scores[2])


def test_what_was_published_comes_in_whole(tmp_path, params):
    tensors: dict[str, np.ndarray] = {}
    for key, leaf in flatten(params).items():
        tensors |= views(table(SMALL.position_layers), key, leaf)
    tensors = {n if n.startswith("proj") else f"d2v_model.{n}": t for n, t in tensors.items()}
    extra = {"d2v_model.modality_encoders.AUDIO.decoder.proj.weight": np.zeros(3)}
    write_tensors(tmp_path / "model.safetensors", tensors | extra)
    config, imported = import_emotion2vec(tmp_path / "model.safetensors")
    assert config == SMALL
    jax.tree.map(np.testing.assert_array_equal, imported, params)
    for change, message in (({"more": np.zeros(3)}, "more has no place"), (None, "is missing")):
        changed = tensors | change if change else {k: tensors[k] for k in list(tensors)[1:]}
        write_tensors(tmp_path / "model.safetensors", changed)
        with pytest.raises(UserError, match=message):
            import_emotion2vec(tmp_path / "model.safetensors")


def test_slopes_halve_and_fill_up():
    np.testing.assert_allclose(slopes(8), 2.0 ** -np.arange(1, 9))
    assert len(slopes(12)) == 12 and slopes(12)[:8] == slopes(8)


class Settings(dict):
    """Settings by attribute as well, as omegaconf has them."""

    __getattr__ = dict.__getitem__

    @classmethod
    def create(cls, values: dict) -> "Settings":
        nested = {k: cls.create(v) if isinstance(v, dict) else v for k, v in values.items()}
        return cls(nested)


def original(settings: dict):
    """FunASR's model, with stand-ins for what its inference needs and this test does not."""
    root = Path(PEERS) / "FunASR"
    if not PEERS or not root.is_dir():
        pytest.skip(
            "no original: clone github.com/modelscope/FunASR (MIT, its weights under a licence of "
            "their own) into a folder, and name that folder in LLASA_PEERS"
        )
    stubs = {
        name: types.ModuleType(name)
        for name in (
            "omegaconf",
            "funasr",
            "funasr.models",
            "funasr.register",
            "funasr.utils",
            "funasr.utils.load_utils",
        )
    }
    stubs["omegaconf"].OmegaConf = Settings
    stubs["omegaconf"].MISSING = stubs["omegaconf"].II = None
    stubs["funasr"].__path__ = [str(root / "funasr")]
    stubs["funasr.models"].__path__ = [str(root / "funasr" / "models")]
    stubs["funasr.register"].tables = types.SimpleNamespace(
        register=lambda *_: lambda registered: registered
    )
    stubs["funasr.utils.load_utils"].load_audio_text_image_video = None
    sys.modules.update(stubs)
    try:
        module = import_module("funasr.models.emotion2vec.model")
        return module.Emotion2vec(**settings)
    finally:
        for name in stubs:
            sys.modules.pop(name, None)


def funasr_settings(config: Emotion2vecConfig) -> dict:
    channels = config.channels
    audio = {
        "prenet_depth": config.prenet,
        "prenet_layerdrop": 0.05,
        "prenet_dropout": 0.1,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "num_extra_tokens": config.extra,
        "init_extra_token_zero": True,
        "local_grad_mult": 1.0,
        "use_alibi_encoder": True,
        "alibi_scale": 1.0,
        "learned_alibi": False,
        "alibi_max_pos": None,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "learned_alibi_scale_per_layer": False,
        "num_alibi_heads": config.heads,
        "model_depth": config.layers,
        "decoder": None,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": f"[({channels}, 10, 5)] + [({channels}, 3, 2)] * 4 + "
        f"[({channels}, 2, 2)] * 2",
        # The width of one of them is this over their number, rounded down.
        "conv_pos_width": config.position_width * config.position_layers,
        "conv_pos_groups": config.position_groups,
        "conv_pos_depth": config.position_layers,
        "conv_pos_pre_ln": False,
    }
    model = {
        "depth": config.layers,
        "num_heads": config.heads,
        "embed_dim": config.dim,
        "mlp_ratio": config.ffn / config.dim,
        "norm_eps": 1e-5,
        "norm_affine": True,
        "layer_norm_first": False,
        "end_of_block_targets": False,
        "encoder_dropout": 0.1,
        "post_mlp_drop": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "dropout_input": 0.0,
        "layerdrop": 0.05,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "clone_batch": 8,
        "normalize": True,
        "modalities": {"audio": audio},
    }
    return {"model_conf": model, "vocab_size": config.classes}


@pytest.mark.parity
@pytest.mark.parametrize(
    "config", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["narrow", "large"]
)
def test_embeddings_are_those_of_the_original(
    tmp_path, config, randomise, speech_like, candidates_of
):
    import torch

    model = randomise(original(funasr_settings(config)))
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    waves = speech_like(20000, 15001)
    batch, expected = candidates_of(waves, 20480), []
    for wave in waves:
        source = torch.nn.functional.layer_norm(torch.from_numpy(wave), wave.shape)[None]
        with torch.no_grad():
            mean = model.extract_features(source)["x"].mean(1)
            expected.append((mean[0].numpy(), model.proj(mean)[0].numpy()))
    del model  # before its gigabyte is there twice more
    found, params = import_emotion2vec(tmp_path / "model.pt")
    assert found == config

    def both(params, waves, lengths):
        merged = nn.merge(emotion2vec_definition(config), params)
        embeddings = merged(waves, lengths)
        return embeddings, merged.logits(embeddings)

    ours = jax.jit(both)(params, batch.waves, batch.lengths)
    error = max(
        np.abs(found[row] - wanted).max() / np.abs(wanted).max()
        for row, of_row in enumerate(expected)
        for found, wanted in zip(ours, of_row, strict=True)
    )
    print(f"\nemotion2vec of {config.layers} layers: {error:.1e} of the largest feature")
    assert error < 1e-4 and np.abs(expected[0][0]).mean() > 0.05

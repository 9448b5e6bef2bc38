"""Published layouts out and in, and every way in which a checkpoint may be wrong."""

import json
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llasa_jax.codec.activations import TAPS
from llasa_jax.config import SpectralConfig
from llasa_jax.errors import UserError
from llasa_jax.interop import xcodec2
from llasa_jax.interop.bundle import flatten
from llasa_jax.interop.weights import INDEX, WEIGHTS, Weights
from llasa_jax.interop.xcodec2 import export_codec, import_codec

LAYOUTS = ("xcodec2", "transformers", "neucodec")
SEMANTIC = "semantic_model.encoder.layers"


@pytest.fixture(scope="module")
def template():
    return cache(xcodec2._template)


@pytest.fixture(autouse=True)
def traced_once(template, monkeypatch):
    """A codec is traced for its shapes once; that takes most of an import's time."""
    monkeypatch.setattr(xcodec2, "_template", template)


@pytest.fixture
def exported(codecs, tmp_path):
    """layout -> folder of the small codec in it."""

    def make(layout):
        export_codec(tmp_path / layout, layout, *codecs[layout])
        return tmp_path / layout

    return make


def imported(folder):
    return import_codec(Weights(folder))


def change(folder, edit):
    """The folder's tensors, edited by `edit(tensors)`."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def renamed(folder, rename):
    tensors = load_file(folder / WEIGHTS)
    save_file({rename(name): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)


def assert_equal(found, params):
    one, two = flatten(found), flatten(params)
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], key)


def refused(folder, message):
    with pytest.raises(UserError, match=message) as caught:
        imported(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_and_in_and_out_gives_equal_bytes(codecs, exported, tmp_path, layout):
    folder = exported(layout)
    found = imported(folder)
    assert (found.layout, found.config, found.ignored) == (layout, codecs[layout][0], ())
    export_codec(tmp_path / "again", layout, found.config, found.params)
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_the_original_layout_keeps_every_parameter(codecs, exported):
    assert_equal(imported(exported("xcodec2")).params, codecs["xcodec2"][1])


def test_transformers_layout_holds_weights_without_their_norm(codecs, exported):
    found = flatten(imported(exported("transformers")).params)
    before = flatten(codecs["transformers"][1])
    for key in before:
        if not key.startswith("encoder.") or key.endswith((".bias", ".alpha", ".beta")):
            np.testing.assert_array_equal(found[key], before[key], key)
        elif key.endswith(".gain"):
            kernel = key.replace("gain", "kernel")
            norm = np.sqrt(np.sum(found[kernel] ** 2, (0, 1)))
            np.testing.assert_allclose(norm, np.abs(before[key]), rtol=1e-5)
            np.testing.assert_allclose(found[key], norm, rtol=1e-6)
            whole = before[kernel] / np.sqrt(np.sum(before[kernel] ** 2, (0, 1))) * before[key]
            np.testing.assert_allclose(found[kernel], whole, rtol=1e-5, atol=1e-6)


def test_original_names_and_axes(codecs, exported):
    """The rows of the original that a wrong table would most easily miss."""
    tensors = load_file(exported("xcodec2") / WEIGHTS)
    ours = flatten(codecs["xcodec2"][1])
    layers = "decoder.backbone.transformers.layers"
    unit = "CodecEnc.conv_blocks.3.block.1.block"
    for name, expected in {
        "generator.backbone.transformers.2.att.c_attn.weight": ours[f"{layers}.c_attn.kernel"][2].T,
        f"{unit}.0.act.beta": ours["encoder.blocks.2.unit2.snake1.beta"],
        f"{unit}.3.weight_v": ours["encoder.blocks.2.unit2.conv2.kernel"].T,
        f"{unit}.3.weight_g": ours["encoder.blocks.2.unit2.conv2.gain"][:, None, None],
        "CodecEnc.conv_blocks.3.block.4.bias": ours["encoder.blocks.2.conv.bias"],
        "SemanticEncoder_module.residual_blocks.3.weight": ours["semantic.adapter.conv3.kernel"].T,
        f"{SEMANTIC}.1.conv_module.depthwise_conv.weight": ours[
            "semantic.model.layers.layers.conv_module.depthwise_conv"
        ][1].T[:, None],
        f"{SEMANTIC}.0.conv_module.pointwise_conv1.weight": ours[
            "semantic.model.layers.layers.conv_module.pointwise_conv1.kernel"
        ][0].T[..., None],
        f"{unit}.2.downsample.lowpass.filter": np.float32(TAPS)[None, None],
    }.items():
        np.testing.assert_array_equal(tensors[name], expected, name)
    assert tensors["generator.head.istft.window"].shape == (1280,)
    assert tensors["generator.head.istft.window"][640] == 1


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace(".act.beta", ".act.bias"),
        lambda name: name.replace(".weight_g", ".parametrizations.weight.original0").replace(
            ".weight_v", ".parametrizations.weight.original1"
        ),
    ],
)
def test_names_of_re_saved_originals(codecs, exported, rename):
    folder = exported("xcodec2")
    renamed(folder, rename)
    assert_equal(imported(folder).params, codecs["xcodec2"][1])


def test_the_same_parameter_under_two_names_is_refused(exported):
    folder, act = exported("xcodec2"), "CodecEnc.conv_final_block.0.act"
    change(folder, lambda t: t.update({f"{act}.bias": t[f"{act}.beta"] + 1}))
    refused(folder, "beta are the same parameter")


def test_layers_above_the_sixteenth_are_dropped(codecs, tmp_path):
    config, _ = codecs["xcodec2"]
    deep = replace(config, semantic=replace(config.semantic, layers=16))
    params = jax.tree.map(np.copy, codecs["xcodec2"][1])
    model = params["semantic"]["model"]
    model["layers"] = jax.tree.map(lambda leaf: np.concatenate([leaf] * 8), model["layers"])
    export_codec(tmp_path, "xcodec2", deep, params)

    def add(tensors):
        for name in [name for name in tensors if name.startswith(f"{SEMANTIC}.15.")]:
            for layer in range(16, 24):
                tensors[name.replace(".15.", f".{layer}.")] = tensors[name] + 1

    change(tmp_path, add)
    found = imported(tmp_path)
    assert found.config == deep
    assert_equal(found.params, params)
    upper = f"{SEMANTIC}.20.ffn1.output_dense.bias"
    change(tmp_path, lambda t: t.update({upper: np.ones(3, np.float32)}))
    refused(tmp_path, f"{upper} has shape")
    change(tmp_path, lambda t: t.pop(upper))
    refused(tmp_path, f"{upper} is missing")


def test_what_only_training_needs_is_named(codecs, exported):
    folder = exported("xcodec2")
    extra = ("fc_post_s.weight", "fc_post_s.bias", "SemanticDecoder_module.initial_conv.weight")
    extra += ("discriminator.mpd.0.weight", "spec_discriminator.x", "model_spk.y")
    change(folder, lambda t: t.update({name: np.ones(2, np.float32) for name in extra}))
    found = imported(folder)
    assert found.ignored[0] == "fc_post_s (2 tensors)" and len(found.ignored) == 5
    assert_equal(found.params, codecs["xcodec2"][1])


def test_filters_and_window_may_be_missing(codecs, exported):
    folder = exported("xcodec2")

    def edit(tensors):
        for name in [n for n in tensors if n.endswith((".filter", ".window", "masked_spec_embed"))]:
            del tensors[name]

    change(folder, edit)
    assert_equal(imported(folder).params, codecs["xcodec2"][1])


def test_an_original_of_another_rate_is_neucodecs(codecs, tmp_path):
    config, params = codecs["neucodec"]
    export_codec(tmp_path, "xcodec2", config, params)
    found = imported(tmp_path)
    assert found.config == config and found.config.semantic.edge == 0
    assert_equal(found.params, params)


def test_dead_outputs_stay_dead(exported, tmp_path):
    folder, name = exported("transformers"), "acoustic_encoder.conv2.weight"
    change(folder, lambda t: t[name].__setitem__(5, 0))
    params = imported(folder).params
    assert params["encoder"]["conv_out"]["gain"][5] == 0
    assert params["encoder"]["conv_out"]["kernel"][..., 5].any()  # or its direction were NaN
    export_codec(tmp_path / "again", "transformers", imported(folder).config, params)
    assert not load_file(tmp_path / "again" / WEIGHTS)[name][5].any()


WRONG = {
    "xcodec2": "generator.backbone.transformers.1.mlp.fc2.weight",
    "transformers": "acoustic_decoder.layers.1.self_attn.k_proj.weight",
    "neucodec": "semantic_adapter.conv4.weight",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_tensors_are_named(exported, layout):
    folder, name = exported(layout), WRONG[layout]
    before = (folder / WEIGHTS).read_bytes()
    for edit, message in (
        (lambda t: t.pop(name), f"{name} is missing"),
        (lambda t: t.update(extra=np.ones(2, np.float32)), "extra has no place"),
        (lambda t: t.update({name: t[name][1:].copy()}), rf"{name} has shape \("),
        (lambda t: t[name].reshape(-1).__setitem__(7, np.nan), f"{name} holds NaN"),
        (lambda t: t[name].reshape(-1).__setitem__(7, np.inf), f"{name} holds NaN or inf"),
    ):
        (folder / WEIGHTS).write_bytes(before)
        change(folder, edit)
        refused(folder, message)
    for size in (4, 2000, len(before) // 2, len(before) - 1):
        (folder / WEIGHTS).write_bytes(before[:size])
        refused(folder, "no readable safetensors")


def test_half_a_weight_norm_is_refused(exported):
    folder, conv = exported("xcodec2"), "CodecEnc.conv_blocks.2.block.4"
    change(folder, lambda t: t.pop(f"{conv}.weight_g"))
    refused(folder, f"{conv}.weight_g is missing")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_betas_that_a_loader_lost_are_refused(exported, layout):
    folder = exported(layout)

    def lose(tensors):
        for name in tensors:
            if name.endswith(".act.beta"):
                tensors[name][:] = 0

    change(folder, lose)
    refused(folder, "every act.beta is zero")


@pytest.mark.parametrize(
    "name",
    ["CodecEnc.conv_final_block.0.downsample.lowpass.filter", "generator.head.istft.window"],
)
def test_other_filters_are_refused(exported, name):
    folder = exported("xcodec2")
    change(folder, lambda t: t[name].reshape(-1).__setitem__(3, 0.5))
    refused(folder, f"{name} is another")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "dac"}, "model_type is 'dac'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, only 1"),
        ({"head_dim": 48}, "head_dim is 48"),
        ({"quantization_dim": 7}, "quantization_dim is 7, only 96"),
        ({"downsampling_ratios": [2, 4, 4, 5]}, "50 features a second"),
        ({"downsampling_ratios": 320}, "breaks a setting"),
        ({"hidden_size": "wide"}, "breaks a setting"),
        ({"quantization_levels": [2, 4]}, "levels: at least 3"),
        ({"semantic_model_config": {"model_type": "wavlm"}}, "model_type is 'wavlm'"),
        ({"semantic_model_config": [1]}, "breaks a setting"),
        ({"encoder_hidden_size": 3}, "acoustic_encoder.* has shape"),
        ({"intermediate_size": 1 << 40}, "acoustic_decoder.* has shape"),
        ({"num_hidden_layers": 1 << 40}, "settings ask for 1099511627776 layers"),
    ],
)
def test_other_settings_are_refused(exported, values, message):
    folder = exported("transformers")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    refused(folder, message)


def test_a_missing_or_broken_config_is_refused(exported):
    folder = exported("neucodec")
    (folder / "config.json").write_text("{")
    refused(folder, "no readable JSON")
    (folder / "config.json").unlink()
    refused(folder, "config.json: not found")


def test_shapes_of_no_codec_are_refused(exported):
    folder = exported("xcodec2")
    scalar = np.ones((), np.float32)
    change(folder, lambda t: t.update({"generator.head.out.bias": scalar}))
    refused(folder, "shapes are of no X-Codec2")


def test_several_files_by_an_index(codecs, exported):
    folder = exported("xcodec2")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = {name: f"part-{i % 3}.safetensors" for i, name in enumerate(tensors)}
    for part in set(names.values()):
        save_file({n: t for n, t in tensors.items() if names[n] == part}, folder / part)
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    assert_equal(imported(folder).params, codecs["xcodec2"][1])


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("xcodec2", {"conv": None, "spectral": SpectralConfig()}, "a spectral encoder"),
        ("transformers", {"semantic": None}, "without a semantic branch"),
        ("neucodec", {"causal": True}, "a causal decoder"),
        ("xcodec2", {"levels": (4, 5, 5)}, r"levels \(4, 5, 5\)"),
        ("transformers", {"norm_groups": 16}, "16 norm groups"),
        ("transformers", {"output_rate": 24000}, "an output at 24000 Hz"),
        ("neucodec", {"output_rate": 16000}, "a semantic edge of 160"),
    ],
)
def test_a_codec_that_a_layout_cannot_hold_is_refused(codecs, tmp_path, layout, settings, message):
    config, params = codecs["xcodec2"]
    with pytest.raises(UserError, match=message):
        export_codec(tmp_path / "out", layout, replace(config, **settings), params)
    assert not (tmp_path / "out").exists()

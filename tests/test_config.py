import ast
import dataclasses
import importlib.util
import json
from operator import attrgetter
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llasa_jax import config as module
from llasa_jax.config import (
    CodecConfig,
    CodecRun,
    DecoderConfig,
    DecoderRun,
    RopeScaling,
    SourceConfig,
    TrainConfig,
    config_folder,
    config_hash,
    from_dict,
    load_config,
    override,
    to_dict,
)
from llasa_jax.errors import UserError

KINDS = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
SCALARS = {
    int: st.integers(1, 64) | st.integers(128, 192),
    bool: st.booleans(),
    float: st.floats(0.001, 1),
    str: st.text(min_size=2, max_size=9).filter(lambda text: len(set(text)) == len(text)),
}


@st.composite
def configurations(draw, kind):
    """A valid configuration of this kind, with any values that its checks accept."""

    def value(hint):
        if dataclasses.is_dataclass(hint):
            return draw(configurations(hint))
        if get_origin(hint) is Literal:
            return draw(st.sampled_from(get_args(hint)))
        if get_origin(hint) is tuple:
            item = get_args(hint)[0]
            if item is int:
                return tuple(draw(st.lists(st.integers(3, 9), min_size=1, max_size=6)))
            return tuple(value(item) for _ in range(draw(st.integers(1, 2))))
        if type(None) in get_args(hint):
            return None if draw(st.booleans()) else value(get_args(hint)[0])
        return draw(SCALARS[hint])

    base = kind()
    hints = get_type_hints(kind)
    chosen = draw(st.sets(st.sampled_from(sorted(hints)), max_size=3))
    try:
        return dataclasses.replace(base, **{name: value(hints[name]) for name in sorted(chosen)})
    except UserError:
        assume(False)


# Few values of some kinds pass their checks: LoRA's targets must all differ.
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(data=st.data())
def test_what_is_written_is_read(kind, data):
    config = data.draw(configurations(kind))
    values = json.loads(json.dumps(to_dict(config), allow_nan=False))
    assert from_dict(kind, values) == config
    assert config_hash(from_dict(kind, values)) == config_hash(config)
    for name in values:
        part = {key: value for key, value in values.items() if key != name}
        try:
            default = from_dict(kind, part)  # a key may be left out
        except UserError:
            continue  # where the default does not fit the other values
        assert (default == config) == (config_hash(default) == config_hash(config))


def test_the_released_vocabulary():
    config = DecoderConfig()
    assert config.vocab == 128256 + 8 + 65536 == 193800
    assert config.padded_vocab == 194048
    assert CodecConfig().codebook_size == 65536 and CodecConfig().frame_rate == 50


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CodecRun, {"code": {}}, "code: unknown setting, known here: codec, train"),
        (CodecRun, {"codec": {"hops": 1}}, "codec.hops: unknown setting"),
        (CodecRun, {"codec": 3}, "codec: expected settings, got 3"),
        (CodecRun, [], "CodecRun: expected settings"),
        (TrainConfig, {"steps": True}, "steps: expected int, got True"),
        (TrainConfig, {"steps": 10.0}, "steps: expected int, got 10.0"),
        (TrainConfig, {"steps": "10"}, "steps: expected int, got '10'"),
        (TrainConfig, {"ema": True}, "ema: expected float, got True"),
        (CodecConfig, {"scan_layers": 1}, "scan_layers: expected bool, got 1"),
        (CodecConfig, {"levels": 4}, "levels: expected a list, got 4"),
        (CodecConfig, {"levels": [4, 4.0]}, "levels: expected int, got 4.0"),
        (CodecConfig, {"levels": []}, "codec.levels"),
        (CodecConfig, {"levels": [2, 4]}, "codec.levels"),
        (CodecConfig, {"levels": [9] * 9}, r"codec.levels: over 2\^20"),
        (CodecConfig, {"hop": 321}, "codec.hop: 321 must be even"),
        (CodecConfig, {"hop": 0}, "codec: .* positive"),
        (CodecConfig, {"norm_groups": 0}, "codec: .* positive"),
        (CodecConfig, {"norm_groups": 48}, "codec.decoder.dim: 256 over 48 norm groups"),
        (CodecConfig, {"decoder": {"layers": 0}}, "transformer: sizes"),
        (CodecConfig, {"spectral": None}, "codec: needs one acoustic encoder"),
        (CodecConfig, {"conv": {}}, "codec: needs one acoustic encoder"),
        (CodecConfig, {"spectral": None, "conv": {"strides": [2, 4]}}, "multiply to 8, not 320"),
        (CodecConfig, {"output_rate": 11025}, "codec.output_rate: 11025"),
        (CodecConfig, {"semantic": {"kind": "recogniser"}}, "codec.semantic: kind recogniser"),
        (CodecConfig, {"semantic": {"heads": 3}}, "codec.semantic: dim 1024 over 3 heads"),
        (CodecRun, {"crop_seconds": 1.27}, "crop_seconds: 1.27 s is no whole number of 320"),
        (CodecRun, {"recorded_share": 1.5}, "recorded_share"),
        (DecoderConfig, {"heads": 6, "kv_heads": 4}, "lm.kv_heads: 6 heads"),
        (DecoderConfig, {"vocab_multiple": 0}, "lm: sizes"),
        (DecoderConfig, {"attention": "flash"}, "attention: 'flash' is none of reference, splash"),
        (DecoderConfig, {"rope_scaling": {"factor": "x"}}, "rope_scaling.factor: expected float"),
        (TrainConfig, {"optimizer": {"peak": 0}}, "optimizer.peak"),
        (TrainConfig, {"optimizer": {"peak": float("nan")}}, "optimizer.peak"),
        (TrainConfig, {"ema": 1.0}, "train.ema"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_path(kind, values, message):
    with pytest.raises(UserError, match=message) as caught:
        from_dict(kind, values)
    assert "\n" not in str(caught.value)


def test_an_int_is_a_float():
    found = from_dict(TrainConfig, {"ema": 0, "optimizer": {"peak": 1}})
    assert isinstance(found.optimizer.peak, float) and found.optimizer.peak == 1
    assert config_hash(found) == config_hash(from_dict(TrainConfig, {"optimizer": {"peak": 1.0}}))


def test_settings_are_overridden_by_path():
    run = override(
        CodecRun(),
        [
            "codec.levels=(5, 4)",
            "codec.decoder.dim=64",
            "train.optimizer.kind=muon",
            "train.steps=7",
            "codec.scan_layers=False",
            "train.optimizer.peak=1e-2",
            "train.steps=8",
        ],
    )
    codec = dataclasses.replace(
        CodecConfig(),
        levels=(5, 4),
        decoder=dataclasses.replace(CodecConfig().decoder, dim=64),
        scan_layers=False,
    )
    optimizer = dataclasses.replace(TrainConfig().optimizer, kind="muon", peak=0.01)
    train = TrainConfig(steps=8, optimizer=optimizer)
    assert run == CodecRun(codec=codec, train=train)
    assert override(CodecRun(), ["codec.levels=4,4"]).codec.levels == (4, 4)
    scaled = override(DecoderRun(), ["lm.rope_scaling={'factor': 8}"])
    assert scaled.lm.rope_scaling == RopeScaling(factor=8.0)
    assert override(scaled, ["lm.rope_scaling.factor=4"]).lm.rope_scaling.factor == 4.0
    assert override(scaled, ["lm.rope_scaling=None"]) == DecoderRun()
    weighed = override(DecoderRun(), ["sources.0.weight=0.5", "sources.0.folder=runs/takes"])
    assert weighed.sources == (SourceConfig(weight=0.5, folder="runs/takes"),)
    assert override(CodecRun(), []) == CodecRun()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.steps", "--set train.steps: expected path=value"),
        ("train.step=3", "--set train.step: unknown setting, known: steps, batch"),
        ("trains.steps=3", "no group of settings named 'trains'"),
        ("train.steps.x=3", "no group of settings named 'steps'"),
        ("train=3", "train: expected settings, got 3"),
        ("train.steps=many", "train.steps: expected int, got 'many'"),
        ("train.steps=1e3", "train.steps: expected int, got 1000.0"),
        ("train.steps=0", "train: steps, batch"),
        ("train.steps={[]: 1}", "train.steps: expected int"),
        ("train.steps=__import__('os')", "train.steps: expected int"),
        ("codec.levels=(4, (4, 4))", r"codec.levels: expected int, got \(4, 4\)"),
        ("codec.levels.9=3", "--set codec.levels.9: unknown setting, known: 0, 1"),
        ("codec.levels.-1=3", "--set codec.levels.-1: unknown setting"),
        ("codec.levels.0.x=3", "no group of settings named '0'"),
        ("=3", "--set : unknown setting"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(assignment, message):
    with pytest.raises(UserError, match=message):
        override(CodecRun(), [assignment])


@settings(deadline=None)
@given(st.text())
def test_no_override_ends_in_another_error(text):
    try:
        override(CodecRun(), [text, f"codec.levels={text}"])
    except UserError:
        pass


@pytest.mark.parametrize("path", sorted(config_folder().glob("*.py")), ids=lambda path: path.stem)
def test_every_named_run_loads_as_its_own_kind_only(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    config = run.get_config()
    kind = type(config)
    assert load_config(path.stem, kind) == load_config(str(path), kind) == config
    assert from_dict(kind, to_dict(config)) == config
    other = next(k for k in (CodecRun, DecoderRun) if k is not kind)
    with pytest.raises(UserError, match=f"is a {kind.__name__}, this command takes"):
        load_config(path.stem, other)
    # Data has rows but no training, a sweep neither of its own.
    names = {"train": "train.steps", "row": "row", "valid_rows": "valid_rows"}
    setting = next(setting for name, setting in names.items() if hasattr(config, name))
    changed = load_config(path.stem, kind, [f"{setting}=3"])
    assert attrgetter(setting)(changed) == 3 and config_hash(changed) != config_hash(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import nowhere", "ModuleNotFoundError"),
        ("x = 1", "AttributeError"),
        ("def get_config(): return 3", "is a int, this command takes CodecRun"),
        (
            "from llasa_jax.config import *\ndef get_config(): return CodecConfig(hop=3)",
            "^codec.hop: 3 must be even",
        ),
    ],
)
def test_a_broken_config_is_named(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(str(tmp_path / "mine.py"), CodecRun)
    assert "mine.py" in str(caught.value) or message.startswith("^")


def test_a_config_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UserError, match="config nowhere: not found.* quickstart_codec"):
        load_config("nowhere", CodecRun)

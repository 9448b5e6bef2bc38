"""The semantic branch against transformers' Wav2Vec2BertModel and Xcodec2SemanticAdapter."""

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.codec.semantic import SemanticBranch
from llasa_jax.config import SemanticConfig

pytestmark = pytest.mark.parity

SMALL = SemanticConfig(
    dim=32, ffn=48, layers=3, heads=4, mel_bins=20, conv_width=7, left=5, right=2
)
NARROW = SemanticConfig(dim=64, ffn=256, layers=4, heads=4)
RELEASED = SemanticConfig()


def theirs(torch, config):
    """transformers' modules, every parameter random: norms, biases and distances as well."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.xcodec2.modeling_xcodec2 import Xcodec2SemanticAdapter

    bert = transformers.Wav2Vec2BertConfig(
        feature_projection_input_dim=2 * config.mel_bins,
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.ffn,
        left_max_position_embeddings=config.left,
        right_max_position_embeddings=config.right,
        conv_depthwise_kernel_size=config.conv_width,
        attn_implementation="eager",
    )
    full = transformers.Xcodec2Config(semantic_model_config=bert)
    modules = transformers.Wav2Vec2BertModel(bert).eval(), Xcodec2SemanticAdapter(full).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in (pair for module in modules for pair in module.named_parameters()):
            weight.normal_(generator=generator)
            if "distance_embedding" not in name and weight.ndim > 1:
                weight.mul_(1.5 * weight[0].numel() ** -0.5)
            elif weight.ndim == 1:
                weight.mul_(0.3).add_(float("norm.weight" in name))
    return modules


def params_of(template, model, adapter):
    """Our tree of their parameters; every one must be used."""
    state = {f"model.{k}": v.numpy() for k, v in model.state_dict().items()}
    state |= {f"adapter.{k}": v.numpy() for k, v in adapter.state_dict().items()}
    del state["model.masked_spec_embed"]

    def read(name, axes):
        value = state.pop(name)
        if value.ndim == 3 and axes == 2:  # [out, in, 1] or [channels, 1, width]
            value = value.squeeze(1 if "depthwise" in name else 2)
        return value if "distance" in name or axes == 1 else value.T

    def fill(path, leaf):
        *names, last = (entry.key for entry in path)
        if last in ("distance_embedding", "depthwise_conv"):
            names, last = [*names, last], "kernel"
        name = ".".join([*names, "bias" if last == "bias" else "weight"])
        if "layers.layers" not in name:
            return read(name, leaf.ndim)
        stacked = [
            read(name.replace("layers.layers", f"encoder.layers.{i}"), leaf.ndim - 1)
            for i in range(leaf.shape[0])
        ]
        return np.stack(stacked)

    params = jax.tree_util.tree_map_with_path(fill, template)
    assert not state, sorted(state)
    shapes = jax.tree.map(lambda a, b: (a.shape, b.shape), params, template)
    assert all(a == b for a, b in jax.tree.leaves(shapes, is_leaf=lambda x: type(x) is tuple))
    return params


def compare(torch, config, times):
    graphdef, template = nn.abstract(lambda rngs: SemanticBranch(config, 16000, 320, rngs=rngs))
    model, adapter = theirs(torch, config)
    params = params_of(template, model, adapter)
    rng = np.random.default_rng(0)
    banks = rng.normal(size=(len(times), max(times), 2 * config.mel_bins)).astype(np.float32)
    mask = np.float32(np.arange(max(times)) < np.array(times)[:, None])

    @jax.jit
    def run(params):
        branch = nn.merge(graphdef, params)
        hidden = branch.model(banks, mask)
        return hidden, branch.adapt(hidden, mask)

    hidden, adapted = jax.device_get(run(params))
    with torch.no_grad():
        valid = torch.from_numpy(mask).long()
        expected = model(torch.from_numpy(banks), attention_mask=valid).last_hidden_state
        for row, time in enumerate(times):
            alone = model(torch.from_numpy(banks[row : row + 1, :time])).last_hidden_state
            again = adapter(alone.mT).mT[0].numpy()
            for found, wanted in (
                (hidden, expected[row, :time].numpy()),
                (hidden, alone[0].numpy()),
                (adapted, again),
            ):
                error = np.abs(found[row, :time] - wanted).max() / np.abs(wanted).max()
                assert wanted.std() > 0.1 and error < 1e-5, error


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("config", [SMALL, NARROW], ids=["small", "narrow"])
def test_features_are_those_of_transformers(torch, config):
    compare(torch, config, (150, 90, 1))


@pytest.mark.slow
def test_features_of_the_released_size_are_those_of_transformers(torch):
    compare(torch, RELEASED, (100, 40))

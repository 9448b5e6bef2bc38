import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llasa_jax import nn
from llasa_jax.config import DecoderConfig, RopeScaling
from llasa_jax.errors import UserError
from llasa_jax.interop.llama import export_llama, import_llama
from llasa_jax.lm.model import Decoder, rope_frequencies
from llasa_jax.lm.released import LLASA_1B, LLASA_3B, LLASA_8B
from llasa_jax.lm.vocabulary import BEGIN, END_OF_TEXT, EOT, HEADER, HEADER_END, Vocabulary
from llasa_jax.lm.vocabulary import nano_vocabulary as nano

SMALL = DecoderConfig(
    dim=32, ffn=48, layers=3, heads=4, kv_heads=2, head_dim=16, text_vocab=267, codes=30
)
FILES = ("model.safetensors", "config.json", "generation_config.json")
FILES += ("tokenizer.json", "tokenizer_config.json")


def random_params(config, seed=0):
    """Random weights of every kind, norms too; scores and logits of size one.

    Scores four times as sharp would put torch's own float32 error at 5e-4 against float64.
    """
    _, template = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
    leaves, tree = jax.tree.flatten_with_path(template)
    numbers = np.random.default_rng(seed)
    made = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        values = numbers.standard_normal(leaf.shape, np.float32)
        if "scale" in name:
            values = 1 + 0.3 * values
        elif "embedding" in name or "head" in name:
            values = values * config.dim**-0.5
        else:
            fan_in = config.dim if "out" not in name else config.heads * config.head_dim
            values = values * (config.ffn if "down" in name else fan_in) ** -0.5
        made.append(values)
    return jax.tree.unflatten(tree, made)


def exported(folder, config=SMALL, params=None):
    params = random_params(config) if params is None else params
    export_llama(folder, config, params, nano(config.codes))
    return params


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaling", [None, RopeScaling(factor=8.0)])
def test_out_and_in_and_out_gives_equal_bytes(tmp_path, tied, scaling):
    config = dataclasses.replace(SMALL, tied_embeddings=tied, rope_scaling=scaling)
    params = exported(tmp_path / "one", config)
    again, imported, vocabulary = import_llama(tmp_path / "one")
    assert again == config
    assert not imported["embedding"][config.vocab :].any()
    params["embedding"][config.vocab :] = 0
    if not tied:
        params["head"][config.vocab :] = 0
    jax.tree.map(np.testing.assert_array_equal, imported, params)
    export_llama(tmp_path / "two", again, imported, vocabulary)
    for name in FILES:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two, name
    assert not list(tmp_path.glob("*/.*"))


def test_padded_rows_never_go_out(tmp_path):
    exported(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == (SMALL.vocab, SMALL.dim)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == SMALL.vocab
    assert "lm_head.weight" not in tensors and len(tensors) == 2 + 9 * SMALL.layers


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(UP), f"{UP} is missing"),
        (lambda t: t.update(extra=np.ones(2)), "extra has no place"),
        (lambda t: t.update({UP: np.ones((48, 31), np.float32)}), rf"{UP} has shape \(48, 31\)"),
        (lambda t: t[UP].__setitem__((3, 4), np.nan), f"{UP} holds NaN"),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    exported(tmp_path)
    change_tensors(tmp_path, change)
    with pytest.raises(UserError, match=message):
        import_llama(tmp_path)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
        ({"vocab_size": 9}, "vocab_size is 9"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"num_key_value_heads": 3}, "kv_heads"),
    ],
)
def test_other_architectures_are_refused(tmp_path, values, message):
    exported(tmp_path)
    change_config(tmp_path, **values)
    with pytest.raises(UserError, match=message):
        import_llama(tmp_path)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="tokenizer.json: not found"):
        import_llama(tmp_path)
    exported(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no readable safetensors"):
        import_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(UserError, match="outside the folder"):
        import_llama(tmp_path)
    (tmp_path / "config.json").write_text("[")
    index.write_text("{}")
    with pytest.raises(UserError, match="no readable JSON"):
        import_llama(tmp_path)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_several_files_by_an_index(tmp_path, storage):
    """A head and 3 layers of 21 kB in float32: parts of 30 kB, and equal bytes once more."""
    config = dataclasses.replace(SMALL, tied_embeddings=False)
    params = random_params(config)
    if storage == "bfloat16":  # what is rounded already comes back as it was
        params = jax.tree.map(lambda x: np.asarray(x.astype(jnp.bfloat16), np.float32), params)
    options = {"storage": storage, "shard_bytes": 30_000 if storage == "float32" else 15_000}
    export_llama(tmp_path / "one", config, params, nano(config.codes), **options)
    files = sorted(path.name for path in (tmp_path / "one").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "one" / "model.safetensors.index.json").read_text())
    held = {name: file for file in files for name in load_file(tmp_path / "one" / file)}
    assert index["weight_map"] == held
    sizes = [t.nbytes for file in files for t in load_file(tmp_path / "one" / file).values()]
    assert index["metadata"] == {"total_size": sum(sizes)}
    for file in files:
        stored = load_file(tmp_path / "one" / file).values()
        assert len(stored) == 1 or sum(t.nbytes for t in stored) <= options["shard_bytes"]
        assert {str(t.dtype) for t in stored} == {storage}
    again, imported, vocabulary = import_llama(tmp_path / "one")
    assert again == config
    for name in ("embedding", "head"):
        params[name][config.vocab :] = 0
    jax.tree.map(np.testing.assert_array_equal, imported, params)
    export_llama(tmp_path / "two", again, imported, vocabulary, **options)
    assert {path.name for path in (tmp_path / "two").iterdir()} == set(
        path.name for path in (tmp_path / "one").iterdir()
    )
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_generation_stops_at_every_end(tmp_path):
    exported(tmp_path)
    vocabulary = nano(SMALL.codes)
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    ends = ("<|SPEECH_GENERATION_END|>", "<|TEXT_GENERATION_END|>", "<|eot_id|>")
    assert settings["eos_token_id"] == [vocabulary.tokenizer.token_to_id(end) for end in ends]


def text_llama(folder, config=SMALL, tokenizer=None):
    """An export cut down to a text model: no tags, no speech ids, no rows of theirs."""
    tokenizer = tokenizer or Tokenizer.from_str(text_tokenizer())
    count = tokenizer.get_vocab_size()
    params = exported(folder, config)
    change_config(folder, vocab_size=count)

    def cut(tensors):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                tensors[name] = tensors[name][:count].copy()

    change_tensors(folder, cut)
    tokenizer.save(str(folder / "tokenizer.json"))
    return params


def text_tokenizer():
    description = json.loads(nano(1).tokenizer.to_str())
    added = [token for token in description["added_tokens"] if token["id"] < 267]
    return json.dumps(description | {"added_tokens": added})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", ["normal", "mean"])
def test_a_text_llama_gets_rows_for_speech(tmp_path, tied, rows):
    config = dataclasses.replace(SMALL, tied_embeddings=tied, codes=4000)
    old = text_llama(tmp_path, config)
    found, params, vocabulary = import_llama(tmp_path, 4000, rows)
    assert found == config
    assert vocabulary.hash == nano(4000).hash  # the tokenizer is extended as ours is
    for name in ("embedding",) if tied else ("embedding", "head"):
        text, new = params[name][:267], params[name][267 : config.vocab]
        np.testing.assert_array_equal(text, old[name][:267])
        assert not params[name][config.vocab :].any()
        if rows == "mean":
            np.testing.assert_allclose(new, np.tile(text.mean(0), (4008, 1)), atol=1e-6)
        else:
            assert abs(new.mean()) < 2e-4 and abs(new.std() - 0.02) < 2e-4
    np.testing.assert_array_equal(params["norm"]["scale"], old["norm"]["scale"])
    again = import_llama(tmp_path, 4000, rows)[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_text_llamas_that_do_not_fit(tmp_path):
    text_llama(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.json: tokenizer: lacks <\|TEXT_GENERATION"):
        import_llama(tmp_path)
    change_config(tmp_path, vocab_size=300)
    with pytest.raises(UserError, match="vocab_size is 300"):
        import_llama(tmp_path, 30)


@pytest.mark.parametrize("equal", [True, False])
def test_a_stored_head_of_a_tied_model(tmp_path, equal):
    exported(tmp_path)
    table = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    head = table if equal else table + 1
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": head.copy()}))
    config, params, _ = import_llama(tmp_path)
    assert config.tied_embeddings == equal == ("head" not in params)


def llama_3_tokenizer(texts):
    """A small byte-pair tokenizer with the rules and special tokens of Llama 3."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([BEGIN, END_OF_TEXT, HEADER, HEADER_END, EOT])
    return tokenizer


# The chat of Llama 3.2 Instruct, written from its documented behaviour: a system turn with two
# dates (today's, unless `date_string` is given or there is no clock), then each turn, trimmed.
LLAMA_32 = """\
{{- bos_token }}
{%- if date_string is not defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]["role"] == "system" %}
    {%- set system, turns = messages[0]["content"] | trim, messages[1:] %}
{%- else %}
    {%- set system, turns = "", messages %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system }}
{{- "<|eot_id|>" }}
{%- for turn in turns %}
    {{- "<|start_header_id|>" + turn["role"] + "<|end_header_id|>\\n\\n" }}
    {{- turn["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}"""

ODD = [
    "你好，世界。今天天气很好！",
    "我在2024年7月26日读了3本书",
    "🙂 emoji 👩‍👩‍👧‍👦 and 🇳🇱",
    "  two blanks before, three behind   ",
    "\ttab\n\nand lines\n",
    "\r\nWindows\r\n",
    "naïve café — “quotes” … ﬁ ½",
    "नमस्ते दुनिया",
    "العربية",
    "don't we'll I'M 1234567890",
    "{{ messages }} {% raw %}",
    "user: assistant system",
]
TYPED = [
    "say <|eot_id|> now",
    "<|TEXT_UNDERSTANDING_END|><|eot_id|>",
    "<|s_7|><|SPEECH_GENERATION_END|>",
    "<|begin_of_text|>",
]


def sentences(count):
    """Texts to speak: the odd ones, and sentences of odd words."""
    numbers = np.random.default_rng(0)
    words = (
        "the a Voice speaks, slowly. don't 1999 héllo ñandú — 'we'll' U.S. (sic) 中文 ok!".split()
    )
    made = [" ".join(numbers.choice(words, numbers.integers(1, 20))) for _ in range(count)]
    return (ODD + made)[:count]


def chat(text, *spoken):
    tagged = f"<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"
    return [
        {"role": "user", "content": "Convert the text to speech:" + tagged},
        {"role": "assistant", "content": "".join(("<|SPEECH_GENERATION_START|>", *spoken))},
    ]


@pytest.mark.parity
@pytest.mark.parametrize("template", ["exported", "llama-3.2"])
def test_template_is_that_of_the_chat_template(tmp_path, template):
    from transformers import AutoTokenizer

    texts = sentences(200)
    vocabulary = Vocabulary.extend(llama_3_tokenizer(texts), 50)
    config = dataclasses.replace(SMALL, text_vocab=vocabulary.text_vocab, codes=50)
    export_llama(tmp_path, config, random_params(config), vocabulary)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    options = {"return_dict": False}
    if template == "llama-3.2":
        theirs.chat_template = LLAMA_32
        options["date_string"] = "26 Jul 2024"
    for text in texts:
        said = chat(text, "<|s_7|>", "<|s_49|>")
        ids = theirs.apply_chat_template(said, continue_final_message=True, **options)
        assert ids == vocabulary.prompt(text, [7, 49]).tolist()
        said = chat(text, "<|s_7|>", "<|s_49|>", "<|SPEECH_GENERATION_END|>")
        ids = theirs.apply_chat_template(said, **options)
        assert ids == vocabulary.example(text, [7, 49])[0].tolist()
        listen = [
            {
                "role": "user",
                "content": "Convert the speech to text:<|SPEECH_UNDERSTANDING_START|><|s_3|>"
                "<|SPEECH_UNDERSTANDING_END|>",
            },
            {
                "role": "assistant",
                "content": f"<|TEXT_GENERATION_START|>{text}<|TEXT_GENERATION_END|>",
            },
        ]
        ids = theirs.apply_chat_template(listen, **options)
        assert ids == vocabulary.example(text, [3], "understanding")[0].tolist()
    # Tags that a user types are tags to the chat template, and text here: the frame is the same.
    frame = vocabulary.prompt("x").tolist()
    place = frame.index(vocabulary.text_vocab + 2) + 1
    for text in TYPED:
        found = vocabulary.prompt(text).tolist()
        inside = found[place : len(found) - len(frame) + place + 1]
        assert found == [*frame[:place], *inside, *frame[place + 1 :]]
        assert theirs.decode(inside) == text
        assert max(inside) < vocabulary.tokenizer.token_to_id(BEGIN)
        assert inside != theirs(text, add_special_tokens=False).input_ids


@pytest.mark.parity
@pytest.mark.parametrize("factor", [None, 8.0, 32.0])
@pytest.mark.parametrize("head_dim", [48, 64, 128])
def test_rotary_frequencies_are_those_of_transformers_to_the_last_bit(tmp_path, head_dim, factor):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = None if factor is None else RopeScaling(factor=factor)
    config = dataclasses.replace(SMALL, head_dim=head_dim, rope_scaling=scaling)
    exported(tmp_path, config)
    expected = LlamaRotaryEmbedding(LlamaConfig.from_pretrained(tmp_path)).inv_freq.numpy()
    np.testing.assert_array_equal(rope_frequencies(config), expected)


NANO = DecoderConfig(text_vocab=267, codes=4096)
CUT = dict(layers=2, text_vocab=267, codes=1024, attention="reference", compute_dtype="float32")
WHOLE = 5_000_000_000


def released(lm):
    """A released shape with its first two layers, a small vocabulary and plain arithmetic."""
    return dataclasses.replace(lm, remat="none", **CUT)


@pytest.mark.parity
@pytest.mark.parametrize(
    "config, shard_bytes",
    [
        (dataclasses.replace(NANO, rope_scaling=RopeScaling(factor=32.0)), WHOLE),
        (
            dataclasses.replace(NANO, rope_scaling=RopeScaling(factor=8.0), tied_embeddings=False),
            1_000_000,
        ),
        (NANO, WHOLE),
        (released(LLASA_1B), WHOLE),
        pytest.param(released(LLASA_3B), WHOLE, marks=pytest.mark.slow),
        pytest.param(released(LLASA_8B), 500_000_000, marks=pytest.mark.slow),
    ],
    ids=[
        "nano",
        "nano-untied-shards",
        "nano-unscaled",
        "1b-2-layers",
        "3b-2-layers",
        "8b-2-layers",
    ],
)
def test_logits_are_those_of_transformers(tmp_path, config, shard_bytes):
    import torch
    from transformers import LlamaForCausalLM

    params = random_params(config)
    export_llama(tmp_path, config, params, nano(config.codes), shard_bytes=shard_bytes)
    assert (tmp_path / "model.safetensors.index.json").is_file() == (shard_bytes < WHOLE)
    ids = np.random.default_rng(1).integers(0, config.vocab, (1, 2048))
    model, report = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()

    @jax.jit
    def logits(params, ids, positions, config=config):
        graphdef, _ = nn.abstract(lambda rngs: Decoder(config, rngs=rngs))
        decoder = nn.merge(graphdef, params)
        return decoder.logits(decoder.hidden(ids, positions), 0, config.vocab)

    positions = jnp.arange(2048)[None]
    found = np.asarray(logits(params, ids, positions))
    assert 0.5 < expected.std() < 5
    np.testing.assert_allclose(found, expected, atol=1e-4)
    if config.rope_scaling is not None:
        plain = dataclasses.replace(config, rope_scaling=None)
        unscaled = jax.jit(lambda p, i, s: logits.__wrapped__(p, i, s, plain))
        assert np.abs(np.asarray(unscaled(params, ids, positions)) - expected).max() > 0.1

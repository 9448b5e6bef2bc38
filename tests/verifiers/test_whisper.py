"""Whisper: padding changes nothing, the loop equals the whole pass, and transformers agrees."""

import json

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import WhisperConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import flatten
from llasa_jax.interop.layouts import views
from llasa_jax.interop.whisper import TABLE, import_whisper
from llasa_jax.verifiers.protocol import score_all
from llasa_jax.verifiers.whisper import (
    Whisper,
    WhisperVocabulary,
    log_mel,
    whisper_definition,
    whisper_transcriber,
    whisper_verifier,
)

SMALL = WhisperConfig(
    mel_bins=20,
    dim=32,
    ffn=48,
    heads=4,
    encoder_layers=2,
    decoder_layers=3,
    vocab=264,
    frames=64,
    positions=24,
)
V3 = dict(dim=1280, ffn=5120, heads=20, mel_bins=128, vocab=51866)
BANNED, BANNED_FIRST = (3, 40, 77), (32, 256)


def settings(config: WhisperConfig) -> dict:
    sizes = {"attention_heads": config.heads, "ffn_dim": config.ffn}
    return {
        "model_type": "whisper",
        "num_mel_bins": config.mel_bins,
        "d_model": config.dim,
        "vocab_size": config.vocab,
        "max_source_positions": config.frames,
        "max_target_positions": config.positions,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
    } | {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()}


RULES = {
    "is_multilingual": True,
    "suppress_tokens": list(BANNED),
    "begin_suppress_tokens": list(BANNED_FIRST),
}


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(lambda rngs: Whisper(SMALL, rngs=rngs))


@pytest.fixture
def folder(tmp_path, publish, params, whisper_tokenizer):
    files = {"config.json": settings(SMALL), "generation_config.json": RULES}
    publish(tmp_path / "whisper", TABLE, params, files)
    whisper_tokenizer.save(str(tmp_path / "whisper" / "tokenizer.json"))
    return tmp_path / "whisper"


@pytest.fixture(scope="module")
def vocabulary(whisper_tokenizer):
    return WhisperVocabulary(
        whisper_tokenizer, language="en", banned=BANNED, banned_first=BANNED_FIRST
    )


def test_what_was_published_comes_in_whole(folder, params):
    config, imported, vocabulary = import_whisper(folder)
    assert config == SMALL
    jax.tree.map(np.testing.assert_array_equal, imported, params)
    names = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    assert vocabulary.prefix.tolist() == [vocabulary.tokenizer.token_to_id(n) for n in names]
    assert vocabulary.decode([*vocabulary.prefix, *vocabulary.labels("héllo, you")]) == "héllo, you"
    assert (vocabulary.banned, vocabulary.banned_first) == (BANNED, BANNED_FIRST)


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("config.json", {"model_type": "bert"}, "only 'whisper' is read"),
        ("config.json", {"encoder_layers": 3}, "layers.2.* is missing"),
        ("config.json", {"decoder_layers": 2}, "layers.2.* has no place"),
        ("config.json", {"d_model": "many"}, "d_model|breaks"),
        ("generation_config.json", {"suppress_tokens": [999]}, "past the model's 264"),
        ("generation_config.json", {"is_multilingual": False}, "knows English only, not 'zh'"),
    ],
)
def test_another_model_is_refused(folder, file, change, message):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        import_whisper(folder, language="zh")


def test_scores_are_those_of_each_candidate_alone(params, vocabulary, speech_like, candidates_of):
    verifier = whisper_verifier(SMALL, params, vocabulary)
    waves = speech_like(9000, 15000, 30000)
    target = verifier.reference("say it", None)
    scores = score_all([verifier], candidates_of(waves, 30000), [target])["whisper"]
    assert scores.shape == (3,) and (scores < 0).all() and np.ptp(scores) > 1e-3
    score = jax.jit(verifier.score)
    for wave, found in zip(waves, scores, strict=True):
        alone = candidates_of([wave[:20480]], 20480)  # 64 frames hear no more
        np.testing.assert_allclose(score(params, alone, target)[0], found, rtol=1e-5)
    for text, message in (("  ", "needs a text"), ("long" * 9, "split it")):
        with pytest.raises(UserError, match=message):
            verifier.reference(text, None)


def test_greedy_transcripts_are_the_best_tokens_of_the_whole_pass(
    params, vocabulary, speech_like, candidates_of
):
    waves = speech_like(9000, 15000, 20000)
    batch = candidates_of(waves, 20480)

    @jax.jit
    def run(params):
        model = nn.merge(whisper_definition(SMALL), params)
        heard = model.hear(batch.waves, batch.lengths)
        ids = model.transcripts(heard, vocabulary)
        return ids, model.decoder(ids, heard)

    ids, logits = (np.array(x) for x in run(params))
    start = len(vocabulary.prefix)
    assert (ids[:, :start] == vocabulary.prefix).all()
    logits[:, :, BANNED] = -np.inf
    logits[:, start - 1, BANNED_FIRST] = -np.inf
    for row, scores in zip(ids, logits, strict=True):
        length = np.argmax(np.append(row[start:], vocabulary.end) == vocabulary.end) + start
        assert (row[length:] == vocabulary.end).all()
        assert row[start:length].tolist() == scores[start - 1 : length - 1].argmax(-1).tolist()
    texts = whisper_transcriber(SMALL, params, vocabulary, batch=2).transcribe(waves[::-1])
    assert texts == [vocabulary.decode(row) for row in ids[::-1]]


def theirs(config: WhisperConfig, folder, tokenizer):
    """transformers' model of these sizes, every parameter random, saved as it is published."""
    import torch
    import transformers

    special = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("en", "zh", "transcribe")}
    end = tokenizer.token_to_id("<|endoftext|>")
    settings_ = settings(config) | {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": tokenizer.token_to_id("<|startoftranscript|>"),
    }
    del settings_["model_type"]
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**settings_))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name:
                weight.normal_(0, 1.5 * config.dim**-0.5, generator=generator)
            elif weight.ndim > 1 and "embed_positions" not in name:
                gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                fan_in = weight[0].numel()
                weight.normal_(0, gain * fan_in**-0.5, generator=generator)
            else:
                weight.normal_(0, 0.2, generator=generator)
                weight.add_(float("norm.weight" in name))
    rules = model.generation_config
    rules.is_multilingual, rules.max_length = True, config.positions
    rules.suppress_tokens, rules.begin_suppress_tokens = list(BANNED), list(BANNED_FIRST)
    rules.lang_to_id = {"<|en|>": special["en"], "<|zh|>": special["zh"]}
    rules.task_to_id = {"transcribe": special["transcribe"]}
    rules.no_timestamps_token_id = tokenizer.token_to_id("<|notimestamps|>")
    model.eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


@pytest.mark.parity
@pytest.mark.parametrize(
    "sizes, parameters",
    [
        (dict(dim=1024, ffn=4096, heads=16, encoder_layers=24, decoder_layers=24), 763_857_920),
        (V3 | dict(encoder_layers=32, decoder_layers=32), 1_543_490_560),
        (V3 | dict(encoder_layers=32, decoder_layers=4), 808_878_080),
    ],
    ids=["medium", "large-v3", "turbo"],
)
def test_the_tensors_of_the_largest_are_those_of_transformers(sizes, parameters):
    import torch
    import transformers

    config = WhisperConfig(**sizes)
    made = settings(config)
    del made["model_type"]
    with torch.device("meta"):  # names and shapes, no memory
        model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**made))
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    assert wanted.pop("proj_out.weight") == (config.vocab, config.dim)
    _, template = nn.abstract(lambda rngs: Whisper(config, rngs=rngs))
    found = {
        name: view.shape
        for key, leaf in flatten(template).items()
        for name, view in views(TABLE, key, np.broadcast_to(np.float32(0), leaf.shape)).items()
    }
    assert found == wanted and nn.parameter_count(template) == parameters


TINY = WhisperConfig()
BASE = WhisperConfig(dim=512, ffn=2048, heads=8, encoder_layers=6, decoder_layers=6)
SIZE_OF_SMALL = WhisperConfig(dim=768, ffn=3072, heads=12, encoder_layers=12, decoder_layers=12)
# Whole, these are 3 and 6 GB: cut to some of their layers, of the released widths.
MEDIUM = WhisperConfig(dim=1024, ffn=4096, heads=16, encoder_layers=12, decoder_layers=12)
LARGE = WhisperConfig(**V3, encoder_layers=8, decoder_layers=8)
slow = pytest.mark.slow


@pytest.mark.parity
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        pytest.param(TINY, marks=slow),
        pytest.param(BASE, marks=slow),
        pytest.param(SIZE_OF_SMALL, marks=slow),
        pytest.param(MEDIUM, marks=slow),
        pytest.param(LARGE, marks=slow),
    ],
    ids=["narrow", "tiny", "base", "small", "medium-12-layers", "large-v3-8-layers"],
)
def test_scores_and_transcripts_are_those_of_transformers(
    tmp_path, config, whisper_tokenizer, speech_like, candidates_of
):
    import torch
    from transformers import WhisperFeatureExtractor

    model = theirs(config, tmp_path, whisper_tokenizer)
    vocabulary = WhisperVocabulary(whisper_tokenizer, language="en")
    waves = speech_like(8000, 16000, 20000)[: 3 if config == SMALL else 2]
    batch = candidates_of(waves, 20480)
    extractor = WhisperFeatureExtractor(config.mel_bins)
    extractor.n_samples = config.frames * 320
    features = extractor(waves, sampling_rate=16000, return_tensors="pt").input_features
    sizes = dict(bins=config.mel_bins, frames=config.frames)
    mel = np.asarray(log_mel(batch.waves, batch.lengths, **sizes))
    np.testing.assert_allclose(mel, features.mT.numpy(), atol=2e-4)

    labels, start = vocabulary.labels("a nice day"), len(vocabulary.prefix)
    tokens = torch.tensor([[*vocabulary.prefix, *labels[:-1]]]).repeat(len(waves), 1)
    length = min(config.positions, 40)
    with torch.no_grad():
        logits = model(features, decoder_input_ids=tokens).logits.log_softmax(-1)
        places = torch.tensor(labels)[None, :, None].repeat(len(waves), 1, 1)
        expected = logits[:, start - 1 :].gather(2, places).mean((1, 2)).numpy()
        greedy = model.generate(features, language="en", task="transcribe", max_length=length)
    del model, logits  # before its gigabytes are there again

    found, params, vocabulary = import_whisper(tmp_path)
    assert found == config
    verifier = whisper_verifier(config, params, vocabulary)
    target = verifier.reference("a nice day", None)

    @jax.jit
    def both(params):
        model = nn.merge(whisper_definition(config), params)
        heard = model.hear(batch.waves, batch.lengths)
        return verifier.score(params, batch, target), model.transcripts(heard, vocabulary, length)

    scores, ids = (np.asarray(x) for x in both(params))
    error = np.abs(scores - expected).max()
    print(f"\nWhisper {config.dim} x {config.encoder_layers}: {scores} off by {error:.1e}")
    assert error < 1e-4 and np.ptp(scores) > 1e-3 and scores.max() < -1
    for row, wanted in zip(ids[:, start:], greedy.numpy(), strict=True):
        wanted = wanted[start:] if (wanted[:start] == vocabulary.prefix).all() else wanted
        wanted = np.append(wanted, [vocabulary.end] * length)[: length - start]
        np.testing.assert_array_equal(row, wanted)
    assert len({tuple(row) for row in ids}) > 1

"""HuBERT: padding changes nothing, its file comes in whole, and transformers agrees."""

import json

import jax
import numpy as np
import pytest

from llasa_jax import nn
from llasa_jax.config import HubertConfig
from llasa_jax.errors import UserError
from llasa_jax.interop.hubert import TABLE, import_hubert
from llasa_jax.verifiers.hubert import (
    Hubert,
    hubert_definition,
    hubert_transcriber,
    hubert_verifier,
)
from llasa_jax.verifiers.protocol import score_all
from llasa_jax.verifiers.wav2vec import frame_counts, samples_of

SIZES = dict(channels=16, dim=32, ffn=48, heads=4, layers=2, position_width=8, position_groups=4)
SMALL = HubertConfig(**SIZES)
LARGE = HubertConfig()


def settings(config: HubertConfig) -> dict:
    return {
        "hidden_size": config.dim,
        "intermediate_size": config.ffn,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_conv_pos_embeddings": config.position_width,
        "num_conv_pos_embedding_groups": config.position_groups,
        "conv_dim": [config.channels] * 7,
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "vocab_size": len(config.outputs),
    }


def places(config: HubertConfig) -> dict:
    names = ["|" if one == " " else one.upper() for one in config.outputs[4:]]
    return {name: i for i, name in enumerate([*config.outputs[:4], *names])}


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(lambda rngs: Hubert(SMALL, rngs=rngs))


def test_scores_and_transcripts_are_those_of_each_wave_alone(params, speech_like, candidates_of):
    verifier = hubert_verifier(SMALL, params)
    waves = speech_like(9000, 20480, 14001, 300)
    target = verifier.reference("Say it!", None)
    scores = score_all([verifier], candidates_of(waves, 20480), [target])["hubert"]
    assert np.isfinite(scores).all() and (scores < 0).all() and np.ptp(scores[:3]) > 1e-3
    assert scores[3] < -1000  # 300 samples hold no frame
    score = jax.jit(verifier.score)
    alone = score(params, candidates_of(waves[:1], 9000), target)
    np.testing.assert_allclose(alone, scores[:1], rtol=1e-5)
    transcriber = hubert_transcriber(SMALL, params, batch=3)
    heard = transcriber.transcribe(waves)
    assert heard == [transcriber.transcribe([wave])[0] for wave in waves]
    assert any(heard[:3]) and heard[3] == "" and set("".join(heard)) <= set(SMALL.outputs)
    with pytest.raises(UserError, match="no letter of '12'"):
        verifier.reference("12", None)


def test_frames_are_those_that_whole_windows_give():
    for frames in (1, 2, 50):
        samples = samples_of(frames)
        assert frame_counts(np.array([samples - 1, samples])).tolist() == [frames - 1, frames]


@pytest.fixture
def folder(tmp_path, publish, params):
    files = {"config.json": settings(SMALL), "vocab.json": places(SMALL)}
    extra = {"hubert.masked_spec_embed": np.ones(SMALL.dim, np.float32)}
    return publish(tmp_path / "hubert", TABLE, params, files, **extra)


def test_what_was_published_comes_in_whole(folder, params):
    config, imported = import_hubert(folder)
    assert config == SMALL
    jax.tree.map(np.testing.assert_array_equal, imported, params)


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("config.json", {"do_stable_layer_norm": False}, "only True is read"),
        ("config.json", {"num_hidden_layers": 3}, "layers.2.* is missing"),
        ("config.json", {"num_hidden_layers": 1}, "layers.1.* has no place"),
        ("config.json", {"conv_dim": [16] * 6 + [8]}, "all must be equal"),
        ("vocab.json", {"more": 99}, "ids are not 0 to"),
    ],
)
def test_another_model_is_refused(folder, file, change, message):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        import_hubert(folder)


@pytest.mark.parity
@pytest.mark.parametrize(
    "config", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["narrow", "large"]
)
def test_logits_are_those_of_transformers(tmp_path, config, randomise, speech_like, candidates_of):
    import torch
    import transformers

    made = transformers.HubertConfig(**settings(config), pad_token_id=0)
    model = randomise(transformers.HubertForCTC(made))
    model.save_pretrained(tmp_path)
    waves = speech_like(20000, 15001)
    batch = candidates_of(waves, 20480)
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    given = extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**given).logits.numpy()
        alone = model(given.input_values[:1, :20000]).logits.numpy()
    del model  # before its gigabyte is there twice more
    (tmp_path / "vocab.json").write_text(json.dumps(places(config)))
    found, params = import_hubert(tmp_path)
    assert found == config
    run = jax.jit(lambda p, w, n: nn.merge(hubert_definition(config), p)(w, n))
    logits, mask = run(params, batch.waves, batch.lengths)
    counts = np.asarray(mask).sum(1).astype(int)
    errors = [
        np.abs(logits[i, : counts[i]] - wanted[: counts[i]]).max() / np.abs(wanted).max()
        for i, wanted in ((0, expected[0]), (1, expected[1]), (0, alone[0]))
    ]
    print(f"\nHuBERT of {config.layers} layers: {max(errors):.1e} of the largest logit")
    assert counts.tolist() == frame_counts(batch.lengths).tolist()
    assert expected.std() > 0.3 and max(errors) < 1e-4, errors
    best = logits.argmax(-1)[0, : counts[0]] == expected[0, : counts[0]].argmax(-1)
    assert best.mean() > 0.99

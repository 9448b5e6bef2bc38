import json

import jax
import numpy as np
import pytest
import soundfile

from llasa_jax import nn
from llasa_jax.cli import main
from llasa_jax.codec import batch
from llasa_jax.codec.model import Codec
from llasa_jax.config import CodecConfig, SpectralConfig, TransformerConfig
from llasa_jax.data.corpora import named_corpus
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.evaluation import codec_report, codec_scores
from llasa_jax.interop.bundle import save_part
from llasa_jax.recipes import eval_codec as recipe
from llasa_jax.recipes.eval_codec import EXTRA, eval_codec, held_out, require_extra

SMALL = TransformerConfig(dim=8, ffn=8, layers=1, heads=2)
CONFIG = CodecConfig(
    levels=(4, 3, 5),
    spectral=SpectralConfig(8, SMALL),
    decoder=SMALL,
    norm_groups=4,
    scan_layers=False,
)
PEERS = ("opus_6000", "opus_6000_constant")
CODEC2 = ("codec2_700", "codec2_1200", "codec2_1600", "codec2_3200")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with a codec of random parameters."""
    rng = np.random.default_rng(0)
    _, template = nn.abstract(lambda rngs: Codec(CONFIG, rngs=rngs))
    params = jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype("f4"), template)
    folder = tmp_path_factory.mktemp("run")
    save_part(folder / "model", "codec", CONFIG, params)
    return folder


@pytest.fixture(scope="module")
def store(speech_corpus, tmp_path_factory):
    return WaveStore.build([named_corpus(str(speech_corpus))], tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """One codec's programs serve all tests here."""
    kept = {}

    def once(config, params, size=16):
        return kept.setdefault(size, batch.BatchCodec(config, params, size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llasa_jax.recipes.stages.BatchCodec", once)
        yield


class Judge:
    name = "judge"

    def transcribe(self, waves, on_wave=lambda: None):
        return ["amber"] * len(waves)


class Speakers:
    def __init__(self, params):
        pass

    def embed(self, waves):
        return np.tile(np.float32([0.6, 0.8]), (len(waves), 1))


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """For the optional packages, the weights and the downloads."""

    def offline(cache):
        raise UserError("no network")

    for name in ("pesq_wb", "pesq_nb"):
        monkeypatch.setitem(codec_scores.PAIRED, name, lambda a, b: 2.0)
    monkeypatch.setattr(codec_report, "_pictures", lambda *_: [])  # slow; tested with the page
    monkeypatch.setattr(recipe, "require_extra", lambda: None)
    monkeypatch.setattr(recipe, "PACKAGES", ("jax",))
    monkeypatch.setattr(recipe, "dnsmos", lambda wave, rate: 3.0)
    monkeypatch.setattr(recipe, "Pocketsphinx", Judge)
    monkeypatch.setattr(recipe, "Ge2eEncoder", Speakers)
    monkeypatch.setattr(recipe, "load_ge2e", dict)
    monkeypatch.setattr(recipe.Codec2Programs, "find", offline)


def test_a_store_is_measured_codec_by_codec(model, store, tmp_path, capsys):
    out = tmp_path / "o"
    line = ["eval", "codec", "--model", model, "--store", store.folder, "--out", out, "--json"]
    assert main([*map(str, line), "--utterances", "3"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    for name in ("ours", *PEERS):
        part = found[name]
        assert part["pesq_wb"] == part["pesq_nb"] == 2 and part["dnsmos"] == 3
        assert part["similarity"] == pytest.approx(1) and 0 < part["wer"] <= 1
        assert part["encode_rtf"] > 0 and part["decode_rtf"] > 0
        low, high = part["si_sdr_interval"]
        assert low <= part["si_sdr"] <= high and part["si_sdr_utterances"] <= 3
    assert found["ours"]["bits_per_second"] == pytest.approx(50 * np.log2(60))
    assert 0 < found["ours"]["codebook_entropy_bits"] <= np.log2(60)
    assert 0 < found["ours"]["codebook_used"] <= 1
    assert found["ours"]["si_sdr"] < found["opus_6000"]["si_sdr"]
    assert found["original"]["wer"] == found["ours"]["wer"]  # the judge heard the same
    assert sorted(found["not_measured"]) == sorted(CODEC2) and not set(CODEC2) & set(found)
    data = found["data"]
    assert data["kinds"] == ["recorded"] and data["hours"] > 0 and data["languages"] == ["en"]
    assert data["codebook"]["from"] == "training speech" and data["wer"]["utterances"] <= 3
    assert {"llasa_jax", "jax"} <= set(found["versions"])
    assert "Codec2 is left out: no network" in captured.err
    assert json.loads((out / "eval.json").read_text()) == found
    assert "<script>alert" not in (out / "codecs.html").read_text()


def test_files_are_measured_without_words(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, size in (("a.wav", 20_000), ("b.flac", 44_100), ("short.wav", 2000)):
        soundfile.write(tmp_path / name, 0.1 * rng.normal(size=(size, 2)), 22_050)
    soundfile.write(tmp_path / "silent.wav", np.zeros(30_000), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nonsense")
    assert main(["eval", "codec", str(tmp_path), "--model", str(model)]) == 0
    captured = capsys.readouterr()
    assert "Ours" in captured.out and "PESQ-WB" in captured.out
    for name in ("short", "silent", "broken"):
        assert f"{name}.wav" in captured.err
    found = eval_codec(model, audio=[tmp_path / "a.wav", tmp_path / "b.flac"], utterances=1)
    assert found["data"]["utterances"] == 1 and found["data"]["wer"] is None
    assert found["ours"]["wer"] is None and "English" in found["ours"]["wer_reason"]


def test_recordings_of_untrained_voices_come_first(store, monkeypatch):
    chosen = held_out(store, 5)
    assert chosen.data["heard"].startswith("trained on")
    assert all(one.split == "test" for one in _utterances(store, chosen))
    speakers = [one.speaker for one in chosen.recordings[:2]]
    assert len(set(speakers)) == len({one.speaker for one in _utterances(store, chosen)}) or (
        chosen.scored < 2
    )
    prompts = store.select("train")[:2]
    monkeypatch.setattr(store, "prompts", lambda *_: prompts)
    chosen = held_out(store, 2)
    assert chosen.data["heard"] == "never trained on" and chosen.scored == 2
    names = [one.name for one in chosen.recordings[:2]]
    assert names == [store.utterances[i].id for i in prompts]
    assert all(chosen.recordings[i].text for i in chosen.spoken)


def test_places_are_spread():
    assert recipe._spread(40, 3) == [0, 20, 39] and recipe._spread(2, 8) == [0, 1]
    assert recipe._spread(1, 3) == [0] and len(recipe._spread(40, 8)) == 8


def _utterances(store, chosen):
    ids = {one.name for one in chosen.recordings[: chosen.scored]}
    return [one for one in store.utterances if one.id in ids]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either --store DIR or recordings"),
        ({"store": "s", "audio": ["a.wav"]}, "give either --store DIR or recordings"),
        ({"audio": ["nowhere.wav"]}, "nowhere.wav: no such file or folder"),
        ({"audio": ["nowhere.wav"], "utterances": 0}, "at least 1 is needed"),
        ({"store": "nowhere"}, "no prepared corpus in nowhere"),
    ],
)
def test_bad_input_is_one_line(model, options, message):
    paths = {k: [recipe.Path(x) for x in v] if k == "audio" else v for k, v in options.items()}
    with pytest.raises(UserError, match=message):
        eval_codec(model, **paths)


def test_nothing_usable_is_an_error(model, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nonsense")
    with pytest.raises(UserError, match="none of 1 recordings is usable"):
        eval_codec(model, audio=[tmp_path])


def test_missing_packages_are_named_at_once(monkeypatch):
    monkeypatch.setattr(recipe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{', '.join(EXTRA)}: pip install 'llasa-jax\[eval\]'"):
        require_extra()


def test_streaming_is_scored_on_what_does_not_fit_into_a_chunk(model):
    codec = recipe.load_codec(recipe.model_folder(model))
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 60, count).astype(np.int32) for count in (150, 190)]
    found = recipe.stream_scores(codec, codes)
    assert found["stream_si_sdr_utterances"] == 1 and found["stream_latency"] == 3
    assert 0 < found["stream_si_sdr"] < 60
    assert recipe.stream_scores(codec, codes[:1])["stream_si_sdr"] is None


def test_a_list_with_texts_gives_the_columns_of_table_1(model, tmp_path, monkeypatch, capsys):
    from llasa_jax.evaluation import scorers

    class Quality:
        def scores(self, waves, text=""):
            return np.array([np.nan, *[3.5] * (len(waves) - 1)], np.float32)

    monkeypatch.setattr(scorers, "Utmos", Quality)
    monkeypatch.setitem(scorers.PACKAGES, "utmos", "numpy")  # needs no torch for its version
    monkeypatch.setattr(scorers, "Pocketsphinx", Judge)
    for name in "abc":
        wave = 0.3 * np.sin(np.arange(16000) * (0.1 + ord(name) / 1000))
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000)
    lines = ("a|amber|a.wav", "b|other words|b.wav", "c|amber bell|c.wav", "d|gone|d.wav", "bad")
    (tmp_path / "some.lst").write_text("\n".join(lines))
    line = ["eval", "codec", tmp_path / "some.lst", "--model", model, "--out", tmp_path / "o"]
    line += ["--scorer", "pocketsphinx", "--scorer", "utmos"]
    assert main([*map(str, line), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["data"]["utterances"] == 3 and found["data"]["wer"]["utterances"] == 3
    assert "d.wav" in captured.err and "line 5" in captured.err
    ours = found["ours"]
    assert ours["tokens_per_second"] == 50 and ours["codebook"] == 60
    assert ours["wer"] == ours["wer_pocketsphinx"] == pytest.approx(3 / 5)
    assert ours["utmos"] == 3.5 and ours["utmos_utterances"] == 2
    assert set(found["judges"]) == {"pocketsphinx", "utmos"}
    table = codec_report.paper_table(found)
    by_name = {row[0]: row for row in table.rows}
    assert by_name["Ours"][1:3] == ("50", "60") and by_name["Ours"][-2] == "3.50"
    assert by_name["Ye et al. 2025: X-codec2, 50"][3] == "2.47"
    assert "table 1" in (tmp_path / "o" / "codecs.html").read_text()

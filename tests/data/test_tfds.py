"""Datasets are built here, in the layout and with the features that TFDS publishes."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from llasa_jax.audio.io import write_audio
from llasa_jax.data.corpora import FolderCorpus, named_corpus
from llasa_jax.data.tfds import PUBLISHED, TfdsCorpus
from llasa_jax.data.tfds_builder import register
from llasa_jax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

# Features beside speech and id, as each dataset's builder describes them.
FEATURES = {
    "ljspeech": {"text": "text", "text_normalized": "text"},
    "libritts": {
        "text_original": "text",
        "text_normalized": "text",
        "speaker_id": "int",
        "chapter_id": "int",
    },
    "librispeech": {"text": "text", "speaker_id": "int", "chapter_id": "int"},
    "vctk": {"text": "text", "speaker": "label", "gender": "label"},
}
STORED = {"libritts": np.int64}  # the others: int16
SPLITS = {
    "libritts": ("train_clean100", "dev_clean", "test_clean"),
    "librispeech": ("train_clean100", "dev_other", "test_clean"),
}


def wave(number):
    return np.round(9000 * np.sin(np.arange(4000 + number) / 9)).astype(np.int16)


def build(name, folder):
    """A dataset as TFDS leaves it; its audio feature is described as TensorFlow would."""
    kinds = {
        "text": tfds.features.Text(),
        "int": np.int64,
        "label": tfds.features.ClassLabel(names=["p225", "p226"]),
    }
    stored = STORED.get(name, np.int16)
    features = {n: kinds[kind] for n, kind in FEATURES[name].items()}
    features |= {"id": np.str_, "speech": tfds.features.Tensor(shape=(None,), dtype=stored)}

    def examples(split):
        for number in range(3):
            example = {"id": f"{split}-{number}", "speech": wave(number).astype(stored)}
            values = {"text": f"Text {number} of {split}", "int": 40 + number, "label": number % 2}
            yield number, example | {n: values[kind] for n, kind in FEATURES[name].items()}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.1.1")
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), description=name
            )

        def _split_generators(self, manager):
            return {split: examples(split) for split in SPLITS.get(name, ("train",))}

        def _generate_examples(self):
            raise NotImplementedError

    Builder.name = name
    made = Builder(data_dir=str(folder), file_format="array_record")
    made.download_and_prepare()
    path = folder / name / "1.1.1" / "features.json"
    described = json.loads(path.read_text())
    speech = described["featuresDict"]["features"]["speech"]
    tensor = speech.pop("tensor")
    speech["pythonClassName"] = "tensorflow_datasets.core.features.audio_feature.Audio"
    rate = {} if name == "vctk" else {"sampleRate": str(PUBLISHED[name].rate)}
    speech["audio"] = tensor | rate
    path.write_text(json.dumps(described))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_datasets_by_name(tmp_path, monkeypatch, name):
    build(name, tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    corpus = named_corpus(name)
    found = corpus.utterances()
    splits = SPLITS.get(name, ("train",))
    assert len(found) == 3 * len(splits) and corpus.name == name
    assert len({one.id for one in found}) == len(found)
    for one in found:
        split, number = one.id.split("/")[1], int(one.id[-1])
        assert one.text == f"Text {number} of {split}"
        read, rate = corpus.read(one)
        assert rate == PUBLISHED[name].rate and one.licence == PUBLISHED[name].licence
        np.testing.assert_allclose(read, wave(number) / 32768.0, atol=1e-7)
    speakers = {one.speaker for one in found}
    expected = {"vctk": {"vctk-p225", "vctk-p226"}, "ljspeech": {"ljspeech"}}
    assert speakers == expected.get(name, {f"{name}-{40 + n}" for n in range(3)})
    if len(splits) > 1:
        assert {one.id.split("/")[1]: one.split for one in found} == dict(
            zip(splits, ("train", "valid", "test"), strict=True)
        )


def test_audio_that_is_stored_as_files(tmp_path):
    """LibriSpeech's configurations of lazy decoding keep the flac files."""

    class Lazy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            speech = tfds.features.Tensor(shape=(), dtype=np.str_)
            features = tfds.features.FeaturesDict({"speech": speech, "text": np.str_})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            file = io.BytesIO()
            soundfile.write(file, wave(5), 16_000, format="FLAC")
            yield 0, {"speech": file.getvalue(), "text": "Hello"}

    Lazy.name = "librispeech"
    made = Lazy(data_dir=str(tmp_path), file_format="array_record")
    made.download_and_prepare()
    path = tmp_path / "librispeech/1.0.0/features.json"
    described = json.loads(path.read_text())
    speech = described["featuresDict"]["features"]["speech"]
    del speech["tensor"]
    speech["pythonClassName"] = "tensorflow_datasets.core.features.audio_feature.Audio"
    speech["audio"] = {"dtype": "int16", "lazyDecode": True, "sampleRate": "16000"}
    path.write_text(json.dumps(described))
    corpus = TfdsCorpus(path.parent)
    (one,) = corpus.utterances()
    read, rate = corpus.read(one)
    assert rate == 16_000 and one.text == "Hello"
    np.testing.assert_allclose(read, wave(5) / 32768.0, atol=1e-7)


def test_a_dataset_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="tfds build ljspeech"):
        named_corpus("ljspeech")
    (tmp_path / "ljspeech").mkdir()
    (tmp_path / "ljspeech/dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="no dataset of TFDS"):
        named_corpus("ljspeech")


def test_any_corpus_becomes_a_dataset(tmp_path):
    for voice, text in (("anna", "Hello"), ("ben", "Žluťoučký kůň"), ("ben/x", "Bye")):
        path = tmp_path / "mine" / voice / "1.wav"
        write_audio(path, wave(len(text)) / 32767, 22_050)
        path.with_suffix(".txt").write_text(text)
    (tmp_path / "mine/anna/broken.wav").write_bytes(b"RIFF")
    source = FolderCorpus(tmp_path / "mine")
    register(source, tmp_path / "tfds")
    (folder,) = {p.parent for p in (tmp_path / "tfds").rglob("dataset_info.json")}
    corpus = named_corpus(str(folder))
    assert isinstance(corpus, TfdsCorpus) and corpus.name == "mine"
    by_text = {one.text: one for one in source.utterances()}
    found = corpus.utterances()
    assert {one.text for one in found} == {"Hello", "Žluťoučký kůň", "Bye"}
    for one in found:
        like = by_text[one.text]
        for name in ("speaker", "language", "licence", "kind", "split"):
            assert getattr(one, name) == getattr(like, name)
        read, rate = corpus.read(one)
        assert rate == 22_050
        np.testing.assert_allclose(read, source.read(like)[0], atol=2 / 32768)


def test_tensorflow_is_not_imported(tmp_path):
    build("libritts", tmp_path)
    code = f"""
import sys
from llasa_jax.data.tfds import TfdsCorpus
from pathlib import Path
corpus = TfdsCorpus(Path({str(tmp_path / "libritts/1.1.1")!r}))
assert len(corpus.read(corpus.utterances()[1])[0]) > 3000
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr[-2000:]

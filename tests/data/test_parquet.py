import io

import numpy as np
import pyarrow
import pytest
import soundfile
from pyarrow import parquet

from llasa_jax.data.corpora import named_corpus
from llasa_jax.data.parquet import ParquetCorpus
from llasa_jax.errors import UserError


def flac(seconds, rate=16_000):
    file = io.BytesIO()
    wave = 0.3 * np.sin(np.arange(round(rate * seconds)) / 9)
    soundfile.write(file, wave, rate, format="FLAC")
    return file.getvalue()


def write(path, seconds, texts=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = [{"bytes": flac(s) if s else None, "path": f"{i}.flac"} for i, s in enumerate(seconds)]
    table = {"audio": audio} | ({"text": texts} if texts else {}) | columns
    parquet.write_table(pyarrow.table(table), path, row_group_size=2)


def test_rows_with_text_speaker_and_language(tmp_path):
    folder = tmp_path / "cv"
    write(
        folder / "data/train-00000-of-00001.parquet",
        [0.5, 0.6, 0.7],
        ["One.", "Two\n2", None],
        speaker_id=[7, 8, 7],
        locale=["de", "de", None],
    )
    corpus = named_corpus(str(folder))
    assert isinstance(corpus, ParquetCorpus)
    found = corpus.utterances()
    assert [one.text for one in found] == ["One.", "Two 2", ""]
    assert [one.speaker for one in found] == ["cv-7", "cv-8", "cv-7"]
    assert [one.language for one in found] == ["de", "de", "en"]
    assert found[0].id == "cv/data/train-00000-of-00001/0"
    fresh = ParquetCorpus(folder)  # another process: it never listed
    for place in (2, 0, 1):
        wave, rate = fresh.read(found[place])
        assert rate == 16_000 and len(wave) == round(16_000 * (0.5, 0.6, 0.7)[place])


def test_files_name_their_split(tmp_path):
    folder = tmp_path / "cv"
    write(folder / "train-0.parquet", [0.5], ["a"])
    write(folder / "validation-0.parquet", [0.5], ["b"])
    write(folder / "test/0.parquet", [0.5])
    splits = {one.id.split("/")[1]: one.split for one in ParquetCorpus(folder).utterances()}
    assert splits == {"test": "test", "train-0": "train", "validation-0": "valid"}


def test_what_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "cv"
    write(folder / "a.parquet", [None, 0.5], ["nothing", "x" * 70_000])
    (folder / "b.parquet").write_bytes(b"PAR1 no")
    parquet.write_table(pyarrow.table({"audio": ["path.wav"]}), folder / "c.parquet")
    corpus = ParquetCorpus(folder)
    (one,) = corpus.utterances()
    with pytest.raises(UserError, match=r"row 0 of .*a\.parquet holds no audio"):
        corpus.read(one)
    places = [place for place, _ in corpus.rejects]
    assert [p.rpartition("/")[2] for p in places] == ["a.parquet: row 1", "b.parquet", "c.parquet"]
    assert "no column of audio" in corpus.rejects[2][1]
    with pytest.raises(UserError, match=r"no \.parquet"):
        ParquetCorpus(tmp_path / "cv/none")

import os
from dataclasses import replace

import numpy as np
import pytest

from llasa_jax.audio.io import write_audio
from llasa_jax.data.corpora import FolderCorpus, PlayedCorpus, StoreCorpus, named_corpus
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError


def write(path, seconds=0.5, text=None):
    write_audio(path, 0.3 * np.sin(np.arange(round(16_000 * seconds)) / 9), 16_000)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def test_speakers_texts_and_splits_of_a_tree(tmp_path):
    folder = tmp_path / "mine"
    write(folder / "anna/x/1.wav", text="Hello\n there. ")
    write(folder / "ben/1.flac")
    write(folder / "2.WAV".lower(), text="")
    (folder / "notes.txt").write_text("no recording")
    first, second, third = FolderCorpus(folder).utterances()
    assert (first.id, first.speaker, first.text) == ("mine/2.wav", "mine", "")
    assert (second.id, second.speaker) == ("mine/anna/x/1.wav", "mine-anna")
    assert second.text == "Hello there." and second.kind == "recorded"
    assert (third.id, third.speaker, third.text) == ("mine/ben/1.flac", "mine-ben", "")


def test_the_ljspeech_layout(tmp_path):
    write(tmp_path / "lj/wavs/LJ1.wav")
    (tmp_path / "lj/metadata.csv").write_text(
        'LJ1|Dr. "X" has 2|Doctor "X" has two\n\nLJ2|gone\nLJ3\n', encoding="utf-8"
    )
    corpus = FolderCorpus(tmp_path / "lj")
    first, second, third = corpus.utterances()
    assert (first.id, first.speaker) == ("lj/LJ1", "lj") and first.text == 'Doctor "X" has two'
    assert second.text == "gone" and third.text == ""
    assert corpus.read(first)[0].shape == (8000,)
    with pytest.raises(UserError, match="LJ2.wav"):
        corpus.read(second)


def test_paths_out_of_the_folder_are_refused(tmp_path):
    write(tmp_path / "secret.wav")
    write(tmp_path / "lj/wavs/a.wav")
    (tmp_path / "lj/metadata.csv").write_text("../../secret|x\n")
    with pytest.raises(UserError, match="leads out of"):
        FolderCorpus(tmp_path / "lj")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(UserError, match="leads out of"):
        FolderCorpus(tmp_path / "tree")


def test_one_bad_file_does_not_end_the_run(tmp_path, capsys):
    folder = tmp_path / "mine"
    write(folder / "good.wav", text="good")
    (folder / "bad.wav").write_bytes(b"RIFF1234")
    write(folder / "latin.wav")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    write(folder / "long.wav", text="x" * 70_000)
    store = WaveStore.build([FolderCorpus(folder)], tmp_path / "store")
    assert [one.text for one in store.utterances] == ["good", "", ""]
    assert store.info["rejects"] == {"broken": 1}
    errors = capsys.readouterr().err
    assert "latin.txt" in errors and "long.txt" in errors and "bad.wav" in errors


def test_a_file_name_need_not_be_utf8(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    write(tmp_path / "a.wav", text="x")
    try:
        os.rename(tmp_path / "a.wav", name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    store = WaveStore.build([FolderCorpus(tmp_path)], tmp_path.parent / "store")
    assert store[0][0].id.endswith("/caf\\xe9.wav")


def test_a_repaired_recording_changes_the_version(tmp_path):
    write(tmp_path / "a.wav")
    before = FolderCorpus(tmp_path).version
    assert FolderCorpus(tmp_path).version == before
    write(tmp_path / "a.wav", seconds=0.6)
    assert FolderCorpus(tmp_path).version != before


def test_empty_missing_and_unknown_are_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no .wav"):
        named_corpus(str(tmp_path))
    with pytest.raises(UserError, match="no corpus folder"):
        FolderCorpus(tmp_path / "nowhere")
    with pytest.raises(UserError, match="quickstart-synthetic"):
        named_corpus("librespeech")
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe|x\n")
    with pytest.raises(UserError, match="metadata.csv"):
        named_corpus(str(tmp_path))


def test_a_folder_is_a_corpus_by_its_path(tmp_path):
    write(tmp_path / "a.wav")
    assert isinstance(named_corpus(str(tmp_path)), FolderCorpus)


def test_a_store_is_a_corpus(tmp_path):
    write(tmp_path / "mine/a.wav", seconds=0.6, text="hello")
    store = WaveStore.build([FolderCorpus(tmp_path / "mine")], tmp_path / "store")
    corpus = named_corpus(str(tmp_path / "store"))
    assert isinstance(corpus, StoreCorpus)
    (one,) = corpus.utterances()
    assert one == store.utterances[0] and one.id == "mine/a.wav"
    wave, rate = corpus.read(one)
    assert rate == 16_000
    np.testing.assert_array_equal(wave, store[0][1])
    with pytest.raises(UserError, match="not in the store"):
        corpus.read(replace(one, id="mine/b.wav"))


def test_training_recordings_are_played_faster(tmp_path):
    for number in range(26):
        write(tmp_path / f"mine/{number}.wav", text=f"{chr(97 + number)} sentence")
    corpus = FolderCorpus(tmp_path / "mine")
    faster = PlayedCorpus(corpus, 1.1)
    train = [one for one in corpus.utterances() if one.split == "train"]
    found = faster.utterances()
    assert 15 < len(found) < 26
    assert [one.id for one in found] == [f"{one.id}@1.1" for one in train]
    assert [replace(one, id="") for one in found] == [replace(one, id="") for one in train]
    wave, rate = faster.read(found[0])
    assert rate == 17_600 and np.array_equal(wave, corpus.read(train[0])[0])

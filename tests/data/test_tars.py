import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from llasa_jax.data.corpora import named_corpus
from llasa_jax.data.tars import TarCorpus, read_index
from llasa_jax.errors import UserError

RATE = 24_000


def mp3(seconds=0.5, hertz=300.0):
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE)
    file = io.BytesIO()
    soundfile.write(file, wave.astype(np.float32), RATE, format="MP3")
    return file.getvalue()


def about(**changed):
    made = {"text": " Hello\n there. ", "speaker": "EN_B0_S1", "language": "en", "dnsmos": 3.3}
    return json.dumps(made | changed).encode()


def write(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "emilia"
    write(
        folder / "EN/EN-B000000.tar",
        [
            ("a_W0.mp3", mp3()),
            ("a_W0.json", about()),
            ("b/c.json", about(text="Bye")),
            ("b/c.mp3", mp3(1.0)),
        ],
    )
    write(folder / "EN/EN-B000001.tar", [("z.mp3", mp3()), ("z.txt", "žluť".encode())])
    return folder


def test_recordings_with_what_stands_beside_them(folder):
    corpus = named_corpus(str(folder))
    assert isinstance(corpus, TarCorpus)
    first, second, third = corpus.utterances()
    assert first.id == "emilia/EN/EN-B000000/a_W0" and first.text == "Hello there."
    assert (first.speaker, first.language) == ("emilia-EN_B0_S1", "en")
    assert second.id == "emilia/EN/EN-B000000/b/c" and second.text == "Bye"
    assert third.text == "žluť" and third.speaker == "emilia"
    assert corpus.rejects == []


def test_waves_are_read_in_any_order_by_a_corpus_that_listed_nothing(folder):
    utterances = TarCorpus(folder).utterances()
    fresh = TarCorpus(folder)
    for place in (2, 0, 1):
        wave, rate = fresh.read(utterances[place])
        assert rate == RATE and wave.dtype == np.float32
        assert abs(len(wave) / RATE - (0.5, 1.0, 0.5)[place]) < 0.1
        assert 0.2 < np.abs(wave).max() < 0.4


def test_hostile_members_are_named_and_never_followed(folder, capsys):
    link = tarfile.TarInfo("link.mp3")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("hard.mp3")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret"
    device = tarfile.TarInfo("device.mp3")
    device.type = tarfile.CHRTYPE
    write(
        folder / "EN/EN-B000000.tar",
        [("../../out.mp3", b"x"), ("/abs.mp3", b"x"), (link, b""), (hard, b""), (device, b"")]
        + [("good.mp3", mp3()), ("good.json", about())],
    )
    corpus = TarCorpus(folder)
    assert [one.id for one in corpus.utterances()] == [
        "emilia/EN/EN-B000000/good",
        "emilia/EN/EN-B000001/z",
    ]
    reasons = [reason for _, reason in corpus.rejects]
    assert reasons == ["a path that leaves the archive"] * 2 + ["a link"] * 2 + ["no plain file"]
    assert "../../out.mp3" in capsys.readouterr().err
    assert not (folder.parent / "out.mp3").exists()


def test_bad_texts_and_lonely_files_are_counted(folder):
    write(
        folder / "EN/EN-B000000.tar",
        [("a.mp3", mp3()), ("a.json", b"[1]"), ("b.mp3", mp3()), ("b.txt", b"caf\xe9")]
        + [("c.json", about()), ("d.mp3", mp3()), ("d.json", b"[" * 60_000)]
        + [("e.mp3", mp3()), ("e.txt", b"x" * 70_000), ("f.mp3", mp3())],
    )
    corpus = TarCorpus(folder)
    assert [one.text for one in corpus.utterances()] == ["", "žluť"]
    assert [reason for _, reason in corpus.rejects] == [
        "a .json that holds no object",
        "a text that is no UTF-8",
        "no recording beside the text",
        "a .json that holds no object",
        "a text of over 64 KiB",
    ]


def test_broken_audio_is_named(folder):
    write(folder / "EN/EN-B000000.tar", [("a.mp3", b"no sound"), ("a.json", about())])
    corpus = TarCorpus(folder)
    with pytest.raises(UserError, match=r"EN-B000000\.tar: a\.mp3: Format"):
        corpus.read(corpus.utterances()[0])


def test_a_truncated_archive_gives_what_is_whole(folder):
    path = folder / "EN/EN-B000000.tar"
    whole = path.read_bytes()
    second = read_index(path).keys["b/c"][1]
    path.write_bytes(whole[: second.start + 100])
    corpus = TarCorpus(folder)
    assert "emilia/EN/EN-B000000/a_W0" in [one.id for one in corpus.utterances()]
    assert any("truncated" in reason for _, reason in corpus.rejects)
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="no readable tar"):
        TarCorpus(folder).utterances()


def test_a_replaced_archive_changes_the_version(folder):
    before = TarCorpus(folder).version
    write(folder / "EN/EN-B000001.tar", [("z.mp3", mp3(0.7))])
    assert TarCorpus(folder).version != before


def test_a_folder_without_archives(tmp_path):
    with pytest.raises(UserError, match=r"no \.tar"):
        TarCorpus(tmp_path)

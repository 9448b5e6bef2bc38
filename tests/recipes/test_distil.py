"""`llasa data distil` with a tiny model of random weights: what is kept, packed and refused."""

import json
import shutil

import numpy as np
import pytest

from llasa_jax.cli import main
from llasa_jax.data.shards import TokenShards, decode_row
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.vocabulary import Vocabulary
from llasa_jax.recipes import distil
from llasa_jax.recipes.voices import NamedVoice, save_voice

SENTENCES = ("one small bird sings", "two tall trees", "a grey stone lies here", "no", "so it is")
RUN = """
from llasa_jax.config import DistilRun, SamplerConfig
def get_config():
    sampler = SamplerConfig(temperature=1.0, top_k=0)
    return DistilRun(candidates=4, keep=2, slots=8, item=2, row=128, sampler=sampler)
"""


@pytest.fixture(scope="module")
def model(speaking_model, tmp_path_factory):
    """With a voice that has a prompt."""
    folder = tmp_path_factory.mktemp("distil") / "model"
    shutil.copytree(speaking_model, folder)
    codec = part_hash(folder, "codec")
    voice = NamedVoice("mine", [1.0, 0, 0, 0], "well now.", [3, 1, 4, 1, 5], "a synthetic voice")
    save_voice(folder / "voices", voice, codec)
    return folder


@pytest.fixture(scope="module")
def command(model, tmp_path_factory):
    work = tmp_path_factory.mktemp("takes")
    (work / "run.py").write_text(RUN)
    (work / "sentences.txt").write_text("\n".join(SENTENCES))
    words = ["data", "distil", work / "run.py", "--model", model]
    words += ["--sentences", work / "sentences.txt", "--out"]
    return lambda out, *more: [str(word) for word in (*words, out, *more)]


@pytest.fixture(scope="module")
def made(command, tmp_path_factory):
    """What an undisturbed run leaves."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert main(command(out)) == 0
    return out


def takes(out):
    return [json.loads(x) for p in sorted(out.glob("takes/*")) for x in p.read_text().splitlines()]


def test_the_best_takes_are_kept_and_only_what_the_model_said_is_learned(made, model):
    spoken = takes(made)
    assert [one["text"] for one in spoken] == list(SENTENCES)
    vocabulary, found = Vocabulary.load(model), []
    for one in spoken:
        scores = np.array(one["scores"]["content"])
        kept = [take["take"] for take in one["kept"]]
        assert len(scores) == 4 and len(kept) <= 2
        fine = [one["statuses"][i] == "ok" for i in range(4)]
        best = sorted(np.flatnonzero(fine), key=lambda i: -scores[i])
        above = [i for i in best if scores[i] >= np.median(scores) - 1e-4]
        assert set(kept) <= set(above) and (not above or kept[0] == above[0])
        found += [(one["text"], take["codes"]) for take in one["kept"]]
    assert found
    shards = TokenShards.open(made / "generation/train", vocabulary=vocabulary.hash)
    learned, texts = [], []
    for number in range(len(shards)):
        row = decode_row(shards[number])
        for ids, bits in zip(
            *(np.split(x, np.cumsum(row.lengths)[:-1]) for x in (row.ids, row.learned)), strict=True
        ):
            assert ids[bits][-1] == vocabulary.speech_end
            learned.append(vocabulary.codes(ids[bits][:-1]).tolist())
            start = int(np.flatnonzero(ids == vocabulary.speech_start)[0])
            assert vocabulary.codes(ids[start + 1 : start + 6]).tolist() == [3, 1, 4, 1, 5]
    texts = [one["text"] for one in shards.about()]
    assert sorted(zip(texts, learned, strict=True)) == sorted(
        (f"well now. {text}", codes) for text, codes in found
    )


def test_its_rows_are_as_those_of_data_prepare(made, capsys):
    data = json.loads((made / "data.json").read_text())
    assert data["distilled"]["sentences"] == 5 and data["distilled"]["takes"] == 20
    assert data["distilled"]["kept"] == data["folders"]["generation/train"]["examples"]
    assert set(data["distilled"]["content"]) == {"first", "kept"}
    assert not (made / "work").exists()
    capsys.readouterr()
    main(["data", "check", str(made), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == data["distilled"]["kept"]
    assert {fault["name"] for fault in found["faults"]} <= {"length"}  # it babbles
    assert main(["data", "stats", str(made), "--json"]) == 0


def test_interrupted_it_goes_on_to_the_same_bytes(made, command, tmp_path, monkeypatch):
    speak, done = distil.Distillation.speak, []

    def stopped(self, job, shown):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job)
        speak(self, job, shown)

    with monkeypatch.context() as patch:
        patch.setattr(distil.Distillation, "speak", stopped)
        assert main(command(tmp_path / "out")) == 130
    assert len(takes(tmp_path / "out")) == 4
    assert main(command(tmp_path / "out", "--seed", "1")) == 2
    assert main(command(tmp_path / "out")) == 0
    for path in ("takes/000004.jsonl", "generation/train/manifest.json", "data.json"):
        assert (tmp_path / "out" / path).read_bytes() == (made / path).read_bytes()
    monkeypatch.setattr(distil.Distillation, "speak", None)
    assert main(command(made)) == 0  # all is there


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--set select=[{'verifier':'loudness'}]", "verifier loudness: unknown, there are"),
        ("--set select=[]", "distil.select: verifiers, each once"),
        ("--set keep=9", "distil.keep: from 1 to the candidates"),
        ("--set candidates=1000", "distil.candidates: 1000, at most 256"),
        ("--sentences {here}/none", "none: cannot be read as text"),
        ("--model {here}", "no model in"),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, capsys, more, message):
    words = [word.replace("{here}", str(tmp_path)) for word in more.split()]
    assert main(command(tmp_path / "out", *words)) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("llasa: error")]
    assert out == "" and len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out/data.json").exists()


def test_where_no_take_is_good_enough_there_are_no_rows(made, command, tmp_path, capsys):
    (tmp_path / "out/takes").mkdir(parents=True)
    for path in made.glob("takes/*"):
        rows = [json.loads(line) | {"kept": []} for line in path.read_text().splitlines()]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "out/takes" / path.name).write_text(text)
    assert main(command(tmp_path / "out")) == 2
    assert "none of the 20 takes was good enough" in capsys.readouterr().err


def test_another_preparation_is_not_overwritten(command, tmp_path, capsys):
    (tmp_path / "out/codes").mkdir(parents=True)
    (tmp_path / "out/codes/00000.jsonl").write_text("")
    assert main(command(tmp_path / "out")) == 2
    assert "holds other files (codes); choose another --out" in capsys.readouterr().err

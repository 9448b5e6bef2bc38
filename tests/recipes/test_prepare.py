import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from llasa_jax.audio.io import write_audio
from llasa_jax.cli import main
from llasa_jax.config import DataRun, FilterConfig, to_dict
from llasa_jax.data.codes import read_codes
from llasa_jax.data.shards import TokenShards, decode_row
from llasa_jax.data.store import WaveStore
from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import Vocabulary, nano_vocabulary
from llasa_jax.recipes.prepare import DATA, Preparation, prepare

BOTH = ("generation", "understanding")


@pytest.fixture(scope="module")
def run(tones):
    """Five items in three groups."""
    return DataRun(corpora=(str(tones),), kinds=BOTH, row=192, item=8, group=2, batch=4)


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


@pytest.fixture(scope="module")
def made(run, model, tmp_path_factory):
    """What an undisturbed run leaves."""
    out = tmp_path_factory.mktemp("made") / "out"
    prepare(run, out, model)
    return out


def contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def examples(shards):
    for number in range(len(shards)):
        row = decode_row(shards[number])
        yield from np.split(row.ids, np.cumsum(row.lengths)[:-1])


def test_every_utterance_in_both_directions(made, model, tones):
    vocabulary = Vocabulary.load(model)
    encoded = read_codes(made / "codes")
    utterances = WaveStore.open(tones).utterances
    assert [one.utterance for one in encoded] == utterances
    for kind in BOTH:
        for split in ("train", "valid", "test"):
            shards = TokenShards.open(made / kind / split, vocabulary=vocabulary.hash)
            expected = sorted(
                tuple(vocabulary.example(e.utterance.text, e.codes, kind)[0])
                for e in encoded
                if e.utterance.split == split
            )
            assert sorted(map(tuple, examples(shards))) == expected
            told = {one["id"] for one in shards.about()}
            assert told == {one.id for one in utterances if one.split == split}
    assert len(TokenShards.open(made / "generation/train").manifest["shards"]) == 3


def test_the_manifest_says_what_it_is(made, model, run):
    found = json.loads((made / DATA).read_text())
    train = found["folders"]["generation/train"]
    assert train["examples"] == train["utterances"] == 20
    assert train["hours_by"]["licence"] == {"mine": train["hours"]}
    assert set(train["hours_by"]["speaker"]) == {"s0", "s1"}
    assert (train["sample_rate"], train["hop"]) == (16_000, 320)
    assert found["codec"] == TokenShards.open(made / "generation/train").manifest["codec"]
    assert found["settings"]["row"] == 192 and found["rejects"] == {}
    assert set(found["made_by"]) >= {"llasa_jax", "jax", "array_record"}
    assert not (made / "work").exists()
    assert Vocabulary.load(made).hash == found["vocabulary"]


def test_again_changes_nothing_and_other_settings_are_refused(made, model, run, tmp_path):
    before = contents(made)
    stamps = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    prepare(run, made, model)
    assert contents(made) == before
    assert stamps == {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    with pytest.raises(UserError, match="other settings"):
        prepare(replace(run, row=256), made, model)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="other files"):
        prepare(run, tmp_path, model)


def test_two_processes_leave_the_same(made, model, run, tmp_path):
    prepare(run, tmp_path / "out", model, workers=2)
    assert contents(tmp_path / "out") == contents(made)


def test_training_recordings_at_other_speeds_too(made, model, run, tmp_path):
    prepare(replace(run, speeds=(0.8, 1.25)), tmp_path / "out", model)
    found = [read_codes(folder / "codes") for folder in (made, tmp_path / "out")]
    plain, played = ({one.utterance.id: one for one in part} for part in found)
    assert plain.keys() < played.keys() and len(played) == len(plain) + 2 * 20
    for name, one in plain.items():
        assert np.array_equal(one.codes, played[name].codes)
        if one.utterance.split == "train":
            slow, fast = (played[f"{name}@{speed:g}"].samples for speed in (0.8, 1.25))
            assert slow > one.samples > fast
    for kind, split, extra in ((BOTH[0], "train", 40), (BOTH[1], "valid", 0)):
        counts = [
            len(list(TokenShards.open(folder / kind / split).about()))
            for folder in (made, tmp_path / "out")
        ]
        assert counts[1] == counts[0] + extra
    with pytest.raises(UserError, match="none of them 1"):
        DataRun(speeds=(1.0,))


def test_a_bucket_holds_the_same(made, model, run):
    address = f"memory://{made.parent.name}/out"
    found = prepare(run, address, model)
    assert found == json.loads((made / DATA).read_text())
    place = Preparation(run, address, model).place
    for name, data in contents(made).items():
        assert place.read(name) == data
    assert prepare(run, address, model) == found


# Imports once, then lets children work: each line on stdin is the seconds until one is killed.
CODE = """
import json, os, signal, sys, time
from pathlib import Path
from llasa_jax.config import DataRun, from_dict
from llasa_jax.recipes.prepare import Preparation
values, out, model = sys.argv[1:]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        Preparation(from_dict(DataRun, json.loads(values)), out, Path(model)).work()
        os._exit(0)
    started, ended = time.monotonic(), (0, 0)
    while ended[0] == 0 and time.monotonic() - started < float(line):
        time.sleep(0.002)
        ended = os.waitpid(child, os.WNOHANG)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    killed = ended[0] == 0
    print(json.dumps([killed, ended[1], time.monotonic() - started]), flush=True)
"""


def killed_at_random(run, model, out, kills, seed, cache):
    """Starts a preparation, kills it at a random moment, and again; then lets one end."""
    rng = random.Random(seed)
    arguments = [sys.executable, "-c", CODE, json.dumps(to_dict(run)), str(out), str(model)]
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, env=os.environ | kept, **pipes) as parent:

        def one(seconds):
            parent.stdin.write(f"{seconds}\n")
            parent.stdin.flush()
            killed, status, passed = json.loads(parent.stdout.readline())
            assert killed or status == 0
            return killed, passed

        one(200)  # compiles
        shutil.rmtree(out)
        length, landed = one(200)[1], 0
        shutil.rmtree(out)
        while landed < kills:
            if one(rng.uniform(0, length))[0]:
                landed += 1
            else:  # it came to its end: from the start, so that kills land inside
                shutil.rmtree(out)
        assert one(200)[0] is False
        parent.stdin.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_twenty_times_the_bytes_are_the_same(made, model, run, tmp_path):
    killed_at_random(run, model, tmp_path / "out", 20, 1, tmp_path / "cache")
    assert contents(tmp_path / "out") == contents(made)


@pytest.mark.parametrize("where", ["codes", "work/groups", DATA])
def test_stopped_at_every_stage_it_goes_on(made, model, run, tmp_path, monkeypatch, where):
    """The process ends while it writes: nothing half-written counts, and what is done is kept."""
    out = tmp_path / "out"
    work = Preparation(run, out, model)
    write, seen = work.place.write, []

    def dying(name, data):
        seen.append(name)
        if name.startswith(where) and sum(n.startswith(where) for n in seen) == 2 - (where == DATA):
            raise KeyboardInterrupt
        write(name, data)

    monkeypatch.setattr(work.place, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        work.work()
    assert not (out / DATA).exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("codes/*")}
    prepare(run, out, model)
    assert contents(out) == contents(made)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_what_is_left_out_is_counted_and_named(tmp_path, model):
    folder = tmp_path / "mine"
    tone = 0.3 * np.sin(np.arange(16_000) / 9)
    texts = {"good": "hello there", "mute": "", "fast": "x" * 60, "slow": "a", "long": "word " * 60}
    for name, text in texts.items():
        write_audio(folder / f"{name}.wav", tone, 16_000)
        (folder / f"{name}.txt").write_text(text)
    for name, wave in (
        ("short", tone[:2000]),
        ("clipped", np.sign(tone)),
        ("silent", 0.001 * tone),
    ):
        write_audio(folder / f"{name}.wav", wave, 16_000)
        (folder / f"{name}.txt").write_text("hello you")
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "broken.txt").write_text("hello me")
    settings = FilterConfig(min_characters_s=2, max_characters_s=40)
    run = DataRun(corpora=(str(folder),), row=128, filter=settings)
    found = prepare(run, tmp_path / "out", model)
    assert found["rejects"] == {
        "broken": 1,
        "clipped": 1,
        "no text": 1,
        "over 40 characters a second": 2,
        "shorter than 0.3 s": 1,
        "silent": 1,
        "under 2 characters a second": 1,
    }
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").open()]
    assert {r["id"] for r in rejects if r["reason"].startswith("broken")} == {"mine/broken.wav"}
    assert sum(f["examples"] for f in found["folders"].values()) == 1


def test_utterances_of_another_kind_or_language_are_not_read(tones, model, tmp_path):
    for settings in (FilterConfig(kind="synthetic"), FilterConfig(languages=("cs",))):
        run = DataRun(corpora=(str(tones),), filter=settings)
        with pytest.raises(UserError, match="nothing to prepare: 40 "):
            prepare(run, tmp_path / "out", model)


def test_two_corpora_with_one_id(tones, model, tmp_path):
    shutil.copytree(tones, tmp_path / "again")
    run = DataRun(corpora=(str(tones), str(tmp_path / "again")), row=192)
    found = prepare(run, tmp_path / "out", model)
    assert found["rejects"] == {"an id that occurs twice": 40}


def test_changed_recordings_end_an_unfinished_preparation(run, model, tmp_path, monkeypatch):
    work = Preparation(run, tmp_path / "out", model)
    monkeypatch.setattr(work, "load_item", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work.work()
    monkeypatch.setattr("llasa_jax.data.corpora.StoreCorpus.__init__", changed_version)
    with pytest.raises(UserError, match="have changed"):
        prepare(run, tmp_path / "out", model)


def changed_version(self, folder):
    self._store = WaveStore.open(folder)
    self.name, self.version = "tones", "another"


def test_released_tokens_and_chats(model, tmp_path):
    vocabulary = nano_vocabulary(60)
    tokens, rows = vocabulary.tokenizer, []
    for k in range(12):
        tag = "<|TEXT_UNDERSTANDING_{}|>"
        said = f"{tag.format('START')}text {k}{tag.format('END')}"
        ids = tokens.encode(said, add_special_tokens=False).ids + [vocabulary.speech_start]
        ids += [vocabulary.first_code + (k + j) % 60 for j in range(5 * k + 1)]
        ids = [*ids, vocabulary.speech_end][:64]
        rows.append(ids + [vocabulary.eot] * (64 - len(ids)))
    for split in ("train", "val"):
        array = np.array(rows, np.int32)
        (tmp_path / f"{split}_input_ids.memmap").write_bytes(array.tobytes())
        np.save(tmp_path / f"{split}_input_ids_shape.npy", np.array(array.shape))
    with (tmp_path / "chat.jsonl").open("w") as file:
        for k in range(300):
            asked = {"role": "user", "content": f"question {k}"}
            file.write(json.dumps({"messages": [asked, {"role": "assistant", "content": "yes"}]}))
            file.write("\n")
        file.write("no json\n")
    run = DataRun(
        tokens=(str(tmp_path),),
        texts=(str(tmp_path / "chat.jsonl"),),
        kinds=BOTH,
        row=128,
        item=5,
        group=1,
    )
    found = prepare(run, tmp_path / "out", model)
    cut = sum(row[-1] != vocabulary.eot and row[-1] != vocabulary.speech_end for row in rows)
    assert found["rejects"] == {"truncated": 2 * cut, "no chat": 1} and cut
    shards = TokenShards.open(tmp_path / "out/generation/valid")
    assert shards.manifest["examples"] == 12 - cut
    expected = vocabulary.example("text 3", [(3 + j) % 60 for j in range(16)])[0]
    assert tuple(expected) in set(map(tuple, examples(shards)))
    assert sum(found["folders"][f"text/{s}"]["examples"] for s in ("train", "valid", "test")) == 300


def test_the_command(tones, model, tmp_path, capsys):
    old = signal.getsignal(signal.SIGTERM)
    line = ["data", "prepare", str(tones), "--out", str(tmp_path / "out")]
    try:
        assert main([*line, "--set", "row=192"]) == 2
        assert "name the codec's --model" in capsys.readouterr().err
        assert main([*line, "--model", str(model), "--set", "row=192", "--workers", "0"]) == 2
        assert main([*line, "--model", str(model), "--set", "row=192"]) == 0
    finally:
        signal.signal(signal.SIGTERM, old)
    found = json.loads(capsys.readouterr().out)
    assert found["folders"]["generation/train"]["examples"] == 20
    assert found["settings"]["minutes"] == 60.0
    assert os.listdir(tmp_path) == ["out"]

"""`llasa data prepare`: recordings, texts and released tokens to packed rows.

Any number of processes on any number of hosts do it together, with nothing between them but the
folder: the plan is listed once, utterances are encoded item by item, items are packed group by
group, and whoever sees all groups done writes the manifests. Every result is a file that appears
whole and depends on nothing but the settings, so that a run killed anywhere and started again ends
with the same bytes.

    data.json          what all of it is; written last
    tokenizer.json     the vocabulary
    codes/             encoded utterances, a file an item
    rejects.jsonl      what was left out, and why
    KIND/SPLIT/        rows, their index and manifest (`data.shards`)
    work/              plan and claims; gone at the end
"""

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from llasa_jax import __version__
from llasa_jax.codec.batch import BatchCodec
from llasa_jax.config import DataRun, config_hash, to_dict
from llasa_jax.console import bar, log
from llasa_jax.data.claims import Claims, share_out
from llasa_jax.data.codes import BY, Counts, Encoded, dump_codes, load_codes
from llasa_jax.data.codes import VERSION as CODES_VERSION
from llasa_jax.data.corpora import PlayedCorpus, named_corpus
from llasa_jax.data.memmap import FILES, TokenMemmap, has_tokens
from llasa_jax.data.place import Place
from llasa_jax.data.shards import VERSION as SHARDS_VERSION
from llasa_jax.data.shards import Example, make_manifest, shard_name, write_shard
from llasa_jax.data.takes import Loaded, load_all, unusable
from llasa_jax.data.utterance import Corpus, Split, Utterance
from llasa_jax.errors import UserError
from llasa_jax.interop.bundle import part_hash
from llasa_jax.lm.vocabulary import Vocabulary, english_vocabulary, nano_vocabulary
from llasa_jax.recipes.stages import codec_config, load_codec

VERSION = 1
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
PLAN, DATA, REJECTS = "work/plan.json", "data.json", "rejects.jsonl"
OWN = {"work", "codes", "tokenizer.json", REJECTS, "generation", "understanding", "text"}
MAX_CHAT_BYTES = 1 << 20


def prepare(
    run: DataRun,
    out: str | Path,
    model: Path,
    *,
    tokenizer: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Prepares everything that `run` names under `out`, and returns its manifest.

    What others who run the same have done, or did before, is not done again.

    Args:
        out: a folder, or a bucket's address (gs://...).
        model: folder with the codec; the vocabulary goes there as well.
        tokenizer: a Hugging Face `tokenizer.json` or its folder, to which the speech ids are added;
            "english": the built-in bytes of English as it is spoken; None: the one that `model`
            has, else the built-in bytes.
        workers: processes on this host.

    Raises:
        UserError: `out` holds another preparation, nothing usable is left, or as reading the
            corpora, the codec or the tokenizer.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: at least 1")
    settle_vocabulary(model, tokenizer)
    others = [
        multiprocessing.get_context("spawn").Process(target=_work, args=(run, str(out), model))
        for _ in range(workers - 1)
    ]
    for other in others:
        other.start()
    try:
        return Preparation(run, out, model).work()
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        for other in others:
            other.join()


def _work(run: DataRun, out: str, model: Path) -> None:
    try:
        Preparation(run, out, model).work()
    except UserError as error:
        log(f"a worker stopped: {error}")


def settle_vocabulary(model: Path, tokenizer: Path | None) -> Vocabulary:
    """The vocabulary of new token rows, which must be the one that the model folder has.

    Raises:
        UserError: the model has another, or its number of codes is not the codec's.
    """
    codes = codec_config(model).codebook_size
    kept = Vocabulary.load(model) if (model / "tokenizer.json").is_file() else None
    if tokenizer is None:
        found = kept or nano_vocabulary(codes)
    elif str(tokenizer) == "english":
        found = english_vocabulary(codes)
    else:
        found = Vocabulary.load(tokenizer, codes)
    if kept is not None and kept.hash != found.hash:
        raise UserError(f"{model}: has another tokenizer; leave out --tokenizer, or take a copy")
    if found.code_count != codes:
        where = model if tokenizer is None else tokenizer
        raise UserError(f"{where}: its tokenizer has {found.code_count} codes, the codec {codes}")
    if kept is None:
        found.save(model)
    return found


class Preparation:
    """One preparation, seen by one process."""

    def __init__(self, run: DataRun, out: str | Path, model: Path) -> None:
        self.run, self.place, self.model = run, Place(out, "work/scratch"), model
        self.codec_name = part_hash(model, "codec")
        self.vocabulary = Vocabulary.load(model)
        self.claims = Claims(self.place)

    @cached_property
    def corpora(self) -> dict[str, Corpus]:
        """By the name that the configuration gives them, those that are played faster after."""
        run = self.run
        settings = {"minutes": run.minutes, "seed": run.seed}
        settings |= {"language": run.language, "licence": run.licence}
        found: dict[str, Corpus] = {name: named_corpus(name, **settings) for name in run.corpora}
        played = [(name, speed) for name in run.corpora for speed in run.speeds]
        return found | {f"{n} at {s:g}": PlayedCorpus(found[n], s) for n, s in played}

    @cached_property
    def codec(self) -> BatchCodec:
        return load_codec(self.model, self.run.batch)

    @cached_property
    def fingerprint(self) -> str:
        """Names everything that the result depends on but the recordings."""
        parts = [VERSION, CODES_VERSION, SHARDS_VERSION, to_dict(self.run)]
        parts += [self.codec_name, self.vocabulary.hash]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def work(self) -> dict[str, Any]:
        """Does what is left, beside whoever else does; returns the manifest."""
        try:
            if not self.done():
                self.make_plan()
                self.encode(self.items())
                self.pack(self.groups())
                self._share_out(["finish"], DATA, _nothing, self.finish)
        except FileNotFoundError:
            if not self.done():  # else another process has just cleared up
                raise
        found = json.loads(self.place.read(DATA))
        if found["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.place}: was prepared with other settings, codec or tokenizer; "
                "choose another --out"
            )
        self.place.remove_folder("work")
        return found

    def done(self) -> bool:
        return self.place.exists(DATA)

    def make_plan(self) -> None:
        """Lists everything, unless that is done.

        Raises:
            UserError: the folder holds something else, or nothing is named that can be read.
        """
        self.place.refuse_others(OWN)
        self._share_out(["plan"], PLAN, self.list_all, self.write_plan)

    def items(self) -> list[str]:
        """The jobs that encode."""
        return [f"item-{number:05d}" for number in range(self.plan["items"])]

    def groups(self) -> list[str]:
        """The jobs that pack; they need all items."""
        return [f"group-{number:05d}" for number in range(len(self.plan["groups"]))]

    def encode(self, items: list[str]) -> None:
        with bar("Encoding", len(items), "items") as shown:
            make = partial(self.make_item, on_done=shown.advance)
            self._share_out(items, "codes/{}.jsonl", self.load_item, make)

    def pack(self, groups: list[str]) -> None:
        self._share_out(groups, "work/groups/{}.json", _nothing, self.make_group)

    def _share_out(
        self,
        jobs: list[str],
        result: str,
        load: Callable[[str], Any],
        finish: Callable[[str, Any], Any],
    ) -> None:
        def done(job: str) -> bool:
            name = result.format(job.removeprefix("item-"))
            return self.place.exists(name) or self.place.exists(DATA)

        share_out(self.claims, jobs, done, load, finish)

    # The plan: which utterances make an item, and what is packed together.

    def list_all(self, job: str) -> tuple[list[tuple[str, Utterance]], list[tuple[str, str]]]:
        """(corpus, utterance) of all that are worth reading, and (id, reason) of the others."""
        found, rejects, seen = [], [], set()
        for name, corpus in self.corpora.items():
            utterances = corpus.utterances()
            rejects += corpus.rejects
            for one in utterances:
                reason = unusable(one, self.run.filter)
                if one.id in seen:
                    reason = "an id that occurs twice"
                if reason:
                    rejects.append((one.id, reason))
                else:
                    found.append((name, one))
                seen.add(one.id)
        return found, rejects

    def write_plan(self, job: str, listed: tuple) -> None:
        """Leaves each item's utterances, and last the plan."""
        found, rejects = listed
        run, groups = self.run, []
        starts = range(0, len(found), run.item)
        for number, start in enumerate(starts):
            rows = ([name, asdict(one)] for name, one in found[start : start + run.item])
            self.place.write(f"work/items/{number:05d}.jsonl", _lines(rows))
        for first in range(0, len(starts), run.group):
            groups.append({"items": [first, min(first + run.group, len(starts))]})
        size = run.item * run.group
        for folder in run.tokens:
            if not has_tokens(Path(folder)):
                raise UserError(f"{folder}: holds no rows in the layout of the released tokens")
            for split in [s for s in FILES if (Path(folder) / f"{FILES[s]}.memmap").is_file()]:
                rows = len(TokenMemmap.open(folder, split, self.vocabulary))
                for first in range(0, rows, size):
                    part = {"tokens": folder, "split": split}
                    groups.append(part | {"rows": [first, min(first + size, rows)]})
        for path in run.texts:
            count = sum(1 for _ in _chat_lines(path))
            for first in range(0, count, size):
                groups.append({"texts": path, "rows": [first, min(first + size, count)]})
        if not groups:
            raise UserError(f"nothing to prepare: {_summary(rejects) or 'no corpus is named'}")
        self.place.write("work/plan-rejects.jsonl", _lines(rejects))
        plan = {"fingerprint": self.fingerprint, "items": len(starts), "groups": groups}
        plan["corpora"] = {name: corpus.version for name, corpus in self.corpora.items()}
        self.place.write(PLAN, json.dumps(plan).encode())

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The plan, if it is ours.

        Raises:
            UserError: other settings made it, or recordings have changed since.
        """
        plan = json.loads(self.place.read(PLAN))
        if plan["fingerprint"] != self.fingerprint:
            raise UserError(
                f"{self.place}: holds an unfinished preparation with other settings, codec or "
                "tokenizer; choose another --out, or delete it"
            )
        changed = [n for n, corpus in self.corpora.items() if corpus.version != plan["corpora"][n]]
        if changed:
            raise UserError(
                f"{self.place}: the recordings of {changed[0]} have changed since this preparation "
                "began; delete it"
            )
        return plan

    # Items: utterances to codes.

    def load_item(self, job: str) -> Loaded:
        """Reads, trims and filters the waves of an item."""
        data = self.place.read(f"work/items/{job.removeprefix('item-')}.jsonl")
        rows = [json.loads(line) for line in data.decode().removesuffix("\n").split("\n")]
        jobs = [(self.corpora[name], Utterance(**values)) for name, values in rows]
        config = self.codec.config
        return load_all(jobs, config.sample_rate, config.hop, self.run.filter, self.run.level)

    def make_item(
        self, job: str, loaded: Loaded, on_done: Callable[[], None] = lambda: None
    ) -> None:
        """Encodes what was loaded and leaves the item's codes."""
        for id, reason in loaded.rejects:
            log(f"left out {id}: {reason}")
        codes = self.codec.encode(loaded.waves, lambda count: self.claims.renew())
        encoded = [
            Encoded(one, found, len(wave))
            for one, wave, found in zip(loaded.utterances, loaded.waves, codes, strict=True)
        ]
        config = self.codec.config
        about = {"codec": self.codec_name, "codebook": config.codebook_size}
        about |= {"frame_rate": config.frame_rate, "rejects": loaded.rejects}
        self.place.write(f"codes/{job.removeprefix('item-')}.jsonl", dump_codes(encoded, **about))
        on_done()

    # Groups: codes to rows.

    def make_group(self, job: str, loaded: None = None) -> None:
        """Packs the examples of a group, a shard a kind and split, and leaves what they are."""
        plan = self.plan
        group = plan["groups"][int(job.removeprefix("group-"))]
        name = shard_name(int(job.removeprefix("group-")), len(plan["groups"]))
        examples: dict[str, list[Example]] = {}
        counts: dict[str, Counts] = {}
        rejects: list[tuple[str, str]] = []
        for folder, example, codes, what in self._examples(group, rejects):
            examples.setdefault(folder, []).append(example)
            counts.setdefault(folder, Counts()).add(codes, **what)
        entries = {}
        for folder, chosen in sorted(examples.items()):
            self.claims.renew()
            with self.place.files(folder) as temporary:
                entry = write_shard(temporary / name, chosen, self.run.row)
            entries[folder] = {"shard": entry, "counts": counts[folder].to_json()}
        made = {"folders": entries, "rejects": rejects}
        self.place.write(f"work/groups/{job}.json", json.dumps(made).encode())

    def _examples(
        self, group: dict[str, Any], rejects: list[tuple[str, str]]
    ) -> Iterator[tuple[str, Example, int, dict[str, str]]]:
        """(kind/split, example, codes, what they are of) of a group; adds to `rejects`."""
        if "items" in group:
            yield from self._spoken(range(*group["items"]), rejects)
        elif "tokens" in group:
            yield from self._released(group, rejects)
        else:
            yield from self._chats(group, rejects)

    def _spoken(self, items: Iterable[int], rejects: list) -> Iterator[tuple]:
        for number in items:
            name = f"codes/{number:05d}.jsonl"
            found = load_codes(self.place.read(name), f"{self.place}/{name}", self.codec_name)
            rejects += found.rejects
            for one in found.encoded:
                who = one.utterance
                what = {name: getattr(who, name) for name in BY}
                count = len(one.codes)
                about = asdict(who) | {"samples": one.samples, "codes": count}
                for kind in self.run.kinds:
                    ids, learned = self.vocabulary.example(who.text, one.codes, kind)
                    yield f"{kind}/{who.split}", Example(ids, learned, about), count, what

    def _released(self, group: dict[str, Any], rejects: list) -> Iterator[tuple]:
        rows = TokenMemmap.open(group["tokens"], group["split"], self.vocabulary)
        for index in range(*group["rows"]):
            id, parts = f"{rows.path}: row {index}", rows.parts(index)
            if isinstance(parts, str):
                rejects.append((id, parts))
                continue
            count = len(parts.codes)
            about = {"id": id, "codes": count, "split": group["split"]}
            what = {"licence": self.run.licence}
            for kind in self.run.kinds:
                ids, learned = self.vocabulary.assemble(parts.text, parts.codes, kind)
                yield f"{kind}/{group['split']}", Example(ids, learned, about), count, what

    def _chats(self, group: dict[str, Any], rejects: list) -> Iterator[tuple]:
        first, last = group["rows"]
        for index, line in islice(enumerate(_chat_lines(group["texts"])), first, last):
            id = f"{group['texts']}: line {index + 1}"
            try:
                if len(line) > MAX_CHAT_BYTES:
                    raise ValueError("over 1 MiB")
                messages = [(m["role"], m["content"]) for m in json.loads(line)["messages"]]
                ids, learned = self.vocabulary.chat(messages)
            except (UserError, ValueError, KeyError, TypeError, RecursionError) as error:
                rejects.append((id, f"no chat: {error}"))
                continue
            draw = int.from_bytes(hashlib.sha256(line).digest()[:2], "big") / 2**16
            split = "test" if draw < 0.01 else "valid" if draw < 0.02 else "train"
            example = Example(ids, learned, {"id": id, "split": split})
            yield f"text/{split}", example, 0, {"licence": self.run.licence}

    # The end: manifests.

    def finish(self, job: str = "finish", loaded: None = None) -> None:
        """Writes the manifest of every folder and of the whole."""
        rejects = [json.loads(line) for line in _split(self.place.read("work/plan-rejects.jsonl"))]
        parts: dict[str, list[dict]] = {}
        for number in range(len(self.plan["groups"])):
            made = json.loads(self.place.read(f"work/groups/group-{number:05d}.json"))
            rejects += made["rejects"]
            for folder, entry in made["folders"].items():
                parts.setdefault(folder, []).append(entry)
        stamp = {"codec": self.codec_name, "vocabulary": self.vocabulary.hash, "row": self.run.row}
        config, folders = self.codec.config, {}
        for folder, entries in sorted(parts.items()):
            counts = Counts()
            for entry in entries:
                counts.merge(entry["counts"])
            about = counts.describe(config.frame_rate)
            about |= {"sample_rate": config.sample_rate, "hop": config.hop}
            manifest = make_manifest([e["shard"] for e in entries], **stamp, about=about)
            self.place.write(f"{folder}/manifest.json", _json(manifest))
            kept = ("rows", "examples", "ids", "learned", "used", "rejects")
            folders[folder] = {name: manifest[name] for name in kept} | about
        if not any(folder["rows"] for folder in folders.values()):
            raise UserError(f"nothing usable in the corpora: {_summary(rejects)}; rows too short?")
        self.place.write("tokenizer.json", (self.model / "tokenizer.json").read_bytes())
        self.place.write(REJECTS, _lines({"id": id, "reason": why} for id, why in rejects))
        packages = {name: version(name) for name in ("jax", "numpy", "soxr", "array_record")}
        self.place.write(
            DATA,
            _json(
                {
                    "version": VERSION,
                    "fingerprint": self.fingerprint,
                    "made_by": {"llasa_jax": __version__} | packages,
                    "settings": to_dict(self.run),
                    "settings_hash": config_hash(self.run),
                    **stamp,
                    "folders": folders,
                    "rejects": dict(sorted(Counter(_short(why) for _, why in rejects).items())),
                }
            ),
        )


def _nothing(job: str) -> None:
    """What there is to load of a job that reads as it goes."""


def _chat_lines(path: str) -> Iterator[bytes]:
    try:
        with Path(path).open("rb") as file:
            yield from file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error


def _short(reason: str) -> str:
    """A reason without what it tells of one recording."""
    return reason.partition(":")[0].partition(" (")[0]


def _summary(rejects: list[tuple[str, str]]) -> str:
    counted = Counter(_short(why) for _, why in rejects)
    return ", ".join(f"{n} {why}" for why, n in sorted(counted.items()))


def _lines(values: Iterable[Any]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def _split(data: bytes) -> list[str]:
    return [line for line in data.decode().split("\n") if line]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

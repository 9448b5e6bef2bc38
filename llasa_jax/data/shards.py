"""Packed token rows on disk: ArrayRecord shards and a manifest that says what they are.

A record is a row: the number of its examples, their lengths, their ids and one bit for each id (is
it learned), all little endian. Positions, segments and targets follow from these and are made when
a batch is (`pipeline`). Beside each shard an index, `NAME.jsonl`, tells what each example is and
which row it stands in. `manifest.json` is written last, so that a folder with one is complete.
"""

import itertools
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from llasa_jax.console import log
from llasa_jax.data.packing import pack
from llasa_jax.errors import UserError

VERSION = 3
EXAMPLES_PER_SHARD = 1 << 15  # that are packed together: about 10,000 rows of 2,048, 80 MiB
TOO_LONG = "longer than a row"
_WORD = np.dtype("<u4")


class Example(NamedTuple):
    """A training sequence.

    Attributes:
        ids: int [n].
        learned: 0 or 1, is each id a target, [n].
        about: what the index tells of it, JSON-able.
    """

    ids: np.ndarray
    learned: np.ndarray
    about: dict[str, Any] = {}


class Row(NamedTuple):
    """Examples packed one after the other.

    Attributes:
        lengths: ids of each example, int64 [examples].
        ids: int32 [n].
        learned: whether each id is a target, bool [n].
    """

    lengths: np.ndarray
    ids: np.ndarray
    learned: np.ndarray


def encode_row(row: Row) -> bytes:
    head = np.concatenate([[len(row.lengths)], row.lengths, row.ids]).astype(_WORD)
    return head.tobytes() + np.packbits(row.learned).tobytes()


def decode_row(record: bytes) -> Row:
    """The row of a record.

    Raises:
        ValueError: if the record's parts do not add up.
    """
    words = np.frombuffer(record, _WORD, len(record) // 4)
    start = 1 + int(words[0]) if len(words) else 0
    lengths = words[1:start].astype(np.int64)
    size = int(lengths.sum())
    stop = 4 * (start + size)
    if not start or len(record) != stop + (size + 7) // 8:
        raise ValueError("the parts of a record do not add up")
    bits = np.frombuffer(record, np.uint8, offset=stop)
    ids = words[start : start + size].astype(np.int32)
    return Row(lengths, ids, np.unpackbits(bits, count=size).astype(bool))


def write_shard(path: Path, examples: Iterable[Example], row: int) -> dict[str, Any]:
    """Pack examples into the rows of one shard, `path`, with its index beside it.

    The same examples give the same bytes. Without an example that fits, no file is written.

    Returns:
        What the manifest says of it: name, rows, bytes, examples, ids, learned, largest (id) and
        rejects by reason.

    Raises:
        ValueError: a loss weight is neither 0 nor 1.
    """
    given = (Example(*one) for one in examples)
    chosen = [Example(np.asarray(e.ids, np.int32), _bits(e.learned), e.about) for e in given]
    packing = pack([len(one.ids) for one in chosen], row)
    kept = [chosen[i] for group in packing.rows for i in group]
    entry = {
        "name": path.name,
        "rows": len(packing.rows),
        "bytes": 0,
        "examples": len(kept),
        "ids": sum(len(one.ids) for one in kept),
        "learned": sum(int(one.learned.sum()) for one in kept),
        "largest": max((int(one.ids.max()) for one in kept), default=0),
        "rejects": {TOO_LONG: len(packing.rejected)} if packing.rejected else {},
    }
    if not kept:
        return entry
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd")  # 1: read at random
    with path.with_suffix(".jsonl").open("w", encoding="utf-8") as index:
        for number, group in enumerate(packing.rows):
            ones = [chosen[i] for i in group]
            lengths = np.array([len(one.ids) for one in ones])
            ids, learned = (np.concatenate([one[k] for one in ones]) for k in (0, 1))
            writer.write(encode_row(Row(lengths, ids, learned)))
            for one in ones:
                line = json.dumps({"row": number} | one.about, ensure_ascii=False)
                index.write(line + "\n")
    writer.close()
    return entry | {"bytes": path.stat().st_size}


def make_manifest(
    entries: Sequence[dict[str, Any]],
    *,
    row: int,
    codec: str,
    vocabulary: str,
    about: dict[str, Any],
) -> dict[str, Any]:
    """The manifest of shards, of what `write_shard` said of each; empty ones are left out."""
    rejects: Counter[str] = Counter()
    for entry in entries:
        rejects.update(entry["rejects"])
    shards = [entry for entry in entries if entry["rows"]]
    total = {name: sum(e[name] for e in shards) for name in ("rows", "examples", "ids", "learned")}
    return {
        "version": VERSION,
        "codec": codec,
        "vocabulary": vocabulary,
        "row": row,
        **total,
        "largest": max((entry["largest"] for entry in shards), default=0),
        "used": total["ids"] / (total["rows"] * row) if shards else 1.0,
        "rejects": dict(sorted(rejects.items())),
        "about": about,
        "shards": [{name: e[name] for name in ("name", "rows", "bytes")} for e in shards],
    }


def shard_name(number: int, count: int) -> str:
    return f"rows-{number:05d}-of-{count:05d}.array_record"


def write_shards(
    folder: str | Path,
    examples: Iterable[Example],
    *,
    row: int,
    codec: str,
    vocabulary: str,
    about: dict[str, Any],
) -> "TokenShards":
    """Pack examples into rows, write them as shards and open them.

    The folder appears whole or not at all; shards that stood there before are replaced. The same
    examples give the same bytes.

    Args:
        folder: where the shards of one split go.
        examples: the sequences.
        row: positions of a row. Longer examples are left out and counted.
        codec, vocabulary: hashes of what made the ids; training compares them with its own.
        about: what speech this is (`codes.describe`), for the manifest.

    Raises:
        UserError: no example fits, or the folder cannot be written.
        ValueError: a loss weight is neither 0 nor 1.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".shards-") as temporary:
            made = Path(temporary) / "shards"
            made.mkdir()
            entries = []
            for number, group in enumerate(_groups(examples)):
                entries.append(write_shard(made / f"{number}.array_record", group, row))
            for number, entry in enumerate(entries):  # the names tell how many there are
                entry["name"] = shard_name(number, len(entries))
                if entry["rows"]:
                    os.replace(made / f"{number}.array_record", made / entry["name"])
                    index = (made / entry["name"]).with_suffix(".jsonl")
                    os.replace(made / f"{number}.jsonl", index)
            stamp = {"row": row, "codec": codec, "vocabulary": vocabulary, "about": about}
            manifest = make_manifest(entries, **stamp)
            if not manifest["rows"]:
                raise UserError(f"no example for {folder} fits a row of {row} ids; longer rows?")
            if manifest["rejects"]:
                log(f"{folder.name}: {manifest['rejects'][TOO_LONG]} examples {TOO_LONG}, left out")
            (made / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            if folder.exists():
                if not (folder / "manifest.json").is_file() and any(folder.iterdir()):
                    raise UserError(f"{folder} holds other files; choose an empty folder")
                shutil.rmtree(folder)
            os.replace(made, folder)
    except OSError as error:
        raise UserError(f"cannot write token shards to {folder}: {error.strerror}") from error
    return TokenShards.open(folder)


def _groups(examples: Iterable[Example]) -> Iterator[list[Example]]:
    rest = iter(examples)
    while group := list(itertools.islice(rest, EXAMPLES_PER_SHARD)):
        yield group


def _bits(weights: np.ndarray) -> np.ndarray:
    if not np.isin(weights, (0, 1)).all():
        raise ValueError("loss weights must be 0 or 1")
    return np.asarray(weights, bool)


class TokenShards:
    """The records of a folder of shards by number: the source of a Grain dataset.

    Attributes:
        folder: where they are.
        manifest: what `manifest.json` says.
        row: positions of a row.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.row: int = manifest["row"]
        self._ends = np.cumsum([shard["rows"] for shard in manifest["shards"]], dtype=np.int64)
        self._readers: dict[int, ArrayRecordReader] = {}

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        codec: str | None = None,
        vocabulary: str | None = None,
        ids: int | None = None,
    ) -> Self:
        """Open the shards in `folder`.

        Args:
            codec, vocabulary: hashes that the caller goes on with; None takes any.
            ids: how many the caller's vocabulary has.

        Raises:
            UserError: there are none, a shard is missing or torn (it is named), they were made
                with another codec, vocabulary or version, or an id is out of the vocabulary.
        """
        folder = Path(folder)
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"no token shards in {folder}; make them with `llasa data prepare`")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["version"] != VERSION:
                raise ValueError(f"version {manifest['version']}, this program reads {VERSION}")
            made_with = {"codec": manifest["codec"], "vocabulary": manifest["vocabulary"]}
            sizes = {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
            shards = cls(folder, manifest)
            largest = int(manifest["largest"])
            if len(shards) != manifest["rows"] or any(Path(n).name != n for n in sizes):
                raise ValueError("its parts do not add up")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); prepare the data again") from error
        for name, hash in (("codec", codec), ("vocabulary", vocabulary)):
            if hash not in (None, made_with[name]):
                raise UserError(
                    f"token shards in {folder}: made with {name} {made_with[name]}, this run has "
                    f"{hash}; prepare the data again"
                )
        if ids is not None and largest >= ids:
            raise UserError(
                f"token shards in {folder}: id {largest} is out of the vocabulary of {ids} ids; "
                "prepare the data again"
            )
        for name, size in sizes.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != size:
                raise UserError(f"shard {folder / name} is missing or torn; prepare the data again")
        return shards

    def part(self, rows: int) -> "TokenShards":
        """So many of the rows, spread evenly (a shard begins with its longest examples)."""
        return _Part(self, rows) if rows < len(self) else self

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> bytes:
        """The record of a row.

        Raises:
            UserError: the shard is damaged; it is named.
        """
        return self.read(np.array([index]))[0]

    def read(self, indices: np.ndarray) -> list[bytes]:
        """The records of rows int [n], in their order; those of a shard are read at once.

        Raises:
            IndexError: a row is not there.
            UserError: a shard is damaged; it is named.
        """
        indices = np.asarray(indices, np.int64)
        rows = int(self._ends[-1])
        indices = np.where(indices < 0, indices + rows, indices)
        if indices.size and not 0 <= indices.min() <= indices.max() < rows:
            raise IndexError(f"rows {indices} of {rows}")
        number = np.searchsorted(self._ends, indices, side="right")
        records = [b""] * len(indices)
        for shard in np.unique(number).tolist():
            mine = np.flatnonzero(number == shard)
            first = self._ends[shard] - self.manifest["shards"][shard]["rows"]
            path = self.folder / self.manifest["shards"][shard]["name"]
            try:
                if shard not in self._readers:
                    options = "readahead_buffer_size:0,max_parallelism:0"  # for random access
                    self._readers[shard] = ArrayRecordReader(str(path), options)
                found = self._readers[shard].read((indices[mine] - first).tolist())
            except (RuntimeError, IndexError, ValueError) as error:
                raise UserError(
                    f"shard {path} is damaged ({error}); prepare the data again"
                ) from error
            for place, record in zip(mine, found, strict=True):
                records[place] = record
        return records

    def about(self) -> Iterator[dict[str, Any]]:
        """What the index says of each example, in the order of the rows; `row` counts over all.

        Raises:
            UserError: an index is missing or damaged.
        """
        first = 0
        for shard in self.manifest["shards"]:
            path = (self.folder / shard["name"]).with_suffix(".jsonl")
            try:
                with path.open(encoding="utf-8") as file:
                    for line in file:
                        one = json.loads(line)
                        yield one | {"row": first + one["row"]}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"index {path} is damaged ({error}); prepare again") from error
            first += shard["rows"]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}  # readers do not go to worker processes

    def __repr__(self) -> str:
        return f"TokenShards({self.folder.name}, {len(self)} rows of {self.row})"


class _Part(TokenShards):
    """Rows spread over those of `whole`; its manifest is that of all."""

    def __init__(self, whole: TokenShards, rows: int) -> None:
        super().__init__(whole.folder, whole.manifest)
        self._chosen = np.arange(rows) * len(whole) // rows

    def __len__(self) -> int:
        return len(self._chosen)

    def read(self, indices: np.ndarray) -> list[bytes]:
        return super().read(self._chosen[np.asarray(indices, np.int64)])

    def about(self) -> Iterator[dict[str, Any]]:
        place = {row: number for number, row in enumerate(self._chosen.tolist())}
        for one in super().about():
            if one["row"] in place:
                yield one | {"row": place[one["row"]]}

"""Packed token rows on disk: ArrayRecord shards and a manifest that says what they are.

A record is a row: the number of its examples, their lengths, their ids and one bit for each id (is
it learned), all little endian. Positions, segments and targets follow from these and are made when
a batch is (`pipeline`). `manifest.json` is written last, so that a folder with one is complete.
"""

import bisect
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from llasa_jax.console import log
from llasa_jax.data.packing import pack
from llasa_jax.errors import UserError

VERSION = 2
ROWS_PER_SHARD = 8192  # 64 MiB of ids at 2,048 a row
TOO_LONG = "longer than a row"
_WORD = np.dtype("<u4")


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


def write_shards(
    folder: str | Path,
    examples: Iterable[tuple[np.ndarray, np.ndarray]],
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
        examples: ids, int [n], and the loss weight (0 or 1) of each as a target, [n].
        row: positions of a row. Longer examples are left out and counted.
        codec, vocabulary: hashes of what made the ids; training compares them with its own.
        about: what speech this is (`codes.describe`), for the manifest.

    Raises:
        UserError: no example fits, or the folder cannot be written.
        ValueError: a loss weight is neither 0 nor 1.
    """
    folder = Path(folder)
    chosen = [(np.asarray(ids, np.int32), _bits(weights)) for ids, weights in examples]
    packing = pack([len(ids) for ids, _ in chosen], row)
    if not packing.rows:
        raise UserError(f"no example for {folder} fits a row of {row} ids; take longer rows")
    if packing.rejected:
        log(f"{folder.name}: {len(packing.rejected)} examples are {TOO_LONG}, left out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".shards-") as temporary:
            made = Path(temporary) / "shards"
            made.mkdir()
            manifest = {
                "version": VERSION,
                "codec": codec,
                "vocabulary": vocabulary,
                "row": row,
                "rows": len(packing.rows),
                "examples": sum(map(len, packing.rows)),
                "ids": sum(len(chosen[i][0]) for group in packing.rows for i in group),
                "largest": max(int(chosen[i][0].max()) for group in packing.rows for i in group),
                "learned": sum(int(chosen[i][1].sum()) for group in packing.rows for i in group),
                "used": packing.used,
                "rejects": {TOO_LONG: len(packing.rejected)} if packing.rejected else {},
                "about": about,
                "shards": _write(made, chosen, packing.rows),
            }
            (made / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            if folder.exists():
                if not (folder / "manifest.json").is_file() and any(folder.iterdir()):
                    raise UserError(f"{folder} holds other files; choose an empty folder")
                shutil.rmtree(folder)
            os.replace(made, folder)
    except OSError as error:
        raise UserError(f"cannot write token shards to {folder}: {error.strerror}") from error
    return TokenShards.open(folder)


def _bits(weights: np.ndarray) -> np.ndarray:
    if not np.isin(weights, (0, 1)).all():
        raise ValueError("loss weights must be 0 or 1")
    return np.asarray(weights, bool)


def _write(
    folder: Path, chosen: list[tuple[np.ndarray, np.ndarray]], rows: list[list[int]]
) -> list[dict[str, Any]]:
    """Write the shards; name, rows and bytes of each."""
    blocks = [rows[i : i + ROWS_PER_SHARD] for i in range(0, len(rows), ROWS_PER_SHARD)]
    shards = []
    for number, block in enumerate(blocks):
        path = folder / f"rows-{number:05d}-of-{len(blocks):05d}.array_record"
        writer = ArrayRecordWriter(str(path), "group_size:1,zstd")  # 1: read at random
        for group in block:
            ids, learned = zip(*(chosen[i] for i in group), strict=True)
            lengths = np.array([len(one) for one in ids])
            writer.write(encode_row(Row(lengths, np.concatenate(ids), np.concatenate(learned))))
        writer.close()
        shards.append({"name": path.name, "rows": len(block), "bytes": path.stat().st_size})
    return shards


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
        self._ends = list(itertools.accumulate(shard["rows"] for shard in manifest["shards"]))
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

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        """The record of a row.

        Raises:
            UserError: the shard is damaged; it is named.
        """
        number = bisect.bisect_right(self._ends, index)
        shard = self.manifest["shards"][number]
        path = self.folder / shard["name"]
        try:
            if number not in self._readers:
                options = "readahead_buffer_size:0,max_parallelism:0"  # for random access
                self._readers[number] = ArrayRecordReader(str(path), options)
            place = index - self._ends[number] + shard["rows"]
            return self._readers[number].read([place])[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise UserError(f"shard {path} is damaged ({error}); prepare the data again") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}  # readers do not go to worker processes

    def __repr__(self) -> str:
        return f"TokenShards({self.folder.name}, {len(self)} rows of {self.row})"

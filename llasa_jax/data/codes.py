"""The encoded corpus: each utterance's codes with its metadata, before they become token rows.

A file is JSON lines: one about the whole (version, codec, rejects, ...), then one for each
utterance. `llasa data prepare` leaves a folder of them. N-gram baselines, voice prompts and token
shards are all made from it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llasa_jax.data.utterance import Utterance
from llasa_jax.errors import UserError

VERSION = 2
BY = ("kind", "speaker", "language", "licence")


# What lines that nobody wrote on purpose may raise.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Encoded:
    """An utterance, its codes int32 [frames], and how many samples they were made of."""

    utterance: Utterance
    codes: np.ndarray
    samples: int


class CodesFile(NamedTuple):
    """What a file of codes holds.

    Attributes:
      encoded: the utterances, in their order.
      rejects: (id, reason) of those that were left out.
      codec: hash that names the codec and its weights.
      frame_rate: codes a second.
    """

    encoded: list[Encoded]
    rejects: list[tuple[str, str]]
    codec: str
    frame_rate: float


def dump_codes(
    encoded: Sequence[Encoded],
    *,
    codec: str,
    codebook: int,
    frame_rate: float,
    rejects: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The contents of a file of codes; the same utterances give the same bytes.

    Args:
      encoded: utterances; their order is kept.
      codec: hash that names the codec and its weights.
      codebook: number of codes it has.
      frame_rate: codes a second.
      rejects: (id, reason) of utterances that were left out.
    """
    head = {"version": VERSION, "codec": codec, "codebook": codebook, "frame_rate": frame_rate}
    head |= {"utterances": len(encoded), "rejects": [list(pair) for pair in rejects]}
    lines = [head]
    for one in encoded:
        row = asdict(one.utterance) | {"samples": one.samples}
        lines.append(row | {"codes": np.asarray(one.codes).tolist()})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def load_codes(data: bytes, name: str, codec: str | None = None) -> CodesFile:
    """What a file of codes, called `name`, holds.

    Args:
      codec: the codec hash that the caller goes on with; None takes any.

    Raises:
      UserError: it is damaged, or another codec or version wrote it.
    """
    try:
        head_line, *lines = data.decode("utf-8").removesuffix("\n").split("\n")
        head = json.loads(head_line)
        if head["version"] != VERSION:
            raise ValueError(f"version {head['version']}, this program reads {VERSION}")
        encoded = [_encoded(json.loads(line), head["codebook"]) for line in lines]
        if len(encoded) != head["utterances"]:
            raise ValueError(f"holds {len(encoded)} of {head['utterances']} utterances")
        rejects = [(str(id), str(reason)) for id, reason in head["rejects"]]
        found = CodesFile(encoded, rejects, str(head["codec"]), float(head["frame_rate"]))
    except DAMAGE as error:
        raise UserError(f"the codes in {name} are damaged ({error}); encode again") from error
    if codec not in (None, found.codec):
        raise UserError(f"{name}: made by codec {found.codec}, not {codec}; encode again")
    return found


def read_codes(folder: str | Path, codec: str | None = None) -> list[Encoded]:
    """All utterances in a folder of codes, in the order of its files.

    Raises:
      UserError: there are none, or as `load_codes`.
    """
    paths = sorted(Path(folder).glob("[0-9]*.jsonl"))
    if not paths:
        raise UserError(f"no encoded corpus in {folder}; run `llasa data prepare`")
    return [
        one for path in paths for one in load_codes(path.read_bytes(), str(path), codec).encoded
    ]


def _encoded(row: dict[str, Any], codebook: int) -> Encoded:
    codes = np.array(row.pop("codes"), np.int32).reshape(-1)
    if codes.size and not 0 <= codes.min() <= codes.max() < codebook:
        raise ValueError(f"a code of {row['id']} is not in [0, {codebook})")
    samples = int(row.pop("samples"))
    return Encoded(Utterance(**row), codes, samples)


class Counts:
    """How much speech of what: codes by kind, speaker, language and licence."""

    def __init__(self) -> None:
        self.utterances = 0
        self.codes = 0
        self.by: dict[str, Counter[str]] = {name: Counter() for name in BY}

    def add(self, codes: int, **what: str) -> None:
        """Counts an utterance of so many codes."""
        self.utterances += 1
        self.codes += codes
        for name, value in what.items():
            self.by[name][value] += codes

    def to_json(self) -> dict[str, Any]:
        return {"utterances": self.utterances, "codes": self.codes, "by": self.by}

    def merge(self, values: dict[str, Any]) -> None:
        """Adds what `to_json` gave of another part."""
        self.utterances += values["utterances"]
        self.codes += values["codes"]
        for name, counter in values["by"].items():
            self.by[name].update(counter)

    def describe(self, frame_rate: float) -> dict[str, Any]:
        """Utterances, codes, hours; hours by kind, speaker, language, licence."""

        def hours(codes: int) -> float:
            return round(codes / frame_rate / 3600, 6)

        by = {name: {k: hours(n) for k, n in sorted(c.items())} for name, c in self.by.items()}
        return {
            "utterances": self.utterances,
            "codes": self.codes,
            "hours": hours(self.codes),
            "hours_by": by,
        }

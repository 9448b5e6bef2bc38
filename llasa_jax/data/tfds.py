"""TensorFlow Datasets, read through `tfds.data_source` and without TensorFlow.

TFDS' own audio feature needs TensorFlow even to be described. What it stores is an array of
integers, so a prepared dataset is read with that feature described as the array it is.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llasa_jax.audio.io import RATES, decode_audio
from llasa_jax.console import log
from llasa_jax.data.utterance import Split, Utterance, files_version, split_of
from llasa_jax.errors import UserError

_AUDIO_CLASS = "tensorflow_datasets.core.features.audio_feature.Audio"
_TENSOR_CLASS = "tensorflow_datasets.core.features.tensor_feature.Tensor"


class Published(NamedTuple):
    """What TFDS does not say of a dataset: its licence, and its rate where features lack it."""

    licence: str
    rate: int
    language: str = "en"


PUBLISHED = {
    "ljspeech": Published("public domain", 22_050),
    "libritts": Published("CC BY 4.0", 24_000),
    "librispeech": Published("CC BY 4.0", 16_000),
    "vctk": Published("CC BY 4.0", 48_000),
}
TEXT = ("text_normalized", "text")
SPEAKER = ("speaker", "speaker_id")
OWN = "llasa_corpus"  # the dataset that `tfds_builder` makes


def data_folder() -> Path:
    """Where TFDS keeps datasets: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


def named_dataset(name: str) -> "TfdsCorpus":
    """One of the `PUBLISHED` datasets, prepared before as ArrayRecord files.

    Raises:
      UserError: it is not there.
    """
    folders = sorted((data_folder() / name).rglob("dataset_info.json"))
    if not folders:
        raise UserError(
            f"no dataset {name} in {data_folder()}; make it with `tfds build {name} "
            "--file_format=array_record` (needs tensorflow), or set TFDS_DATA_DIR"
        )
    return TfdsCorpus(folders[-1].parent)


class TfdsCorpus:
    """A dataset that TFDS prepared as ArrayRecord files, in the folder with `dataset_info.json`.

    An utterance's id is `dataset/split/number`, with the dataset's own id behind it if it has one.
    Splits named train, dev, valid or test stay what they are; of a dataset with one split only,
    and of other names, utterances are split by their text.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self.rejects: list[tuple[str, str]] = []
        info = self._builder.info
        self._own = info.name == OWN
        self.name: str = info.config_name if self._own else info.name
        known = PUBLISHED.get(info.name)
        self._licence = known.licence if known else "unknown"
        self._language = known.language if known else "en"
        features = list(info.features)
        audio = [n for n in ("speech", "audio") if n in features]
        if not audio:
            raise UserError(f"{folder} has no feature speech or audio, only {', '.join(features)}")
        self._audio = audio[0]
        self._rate = int(self._rates.get(self._audio) or (known.rate if known else 0))
        if self._rate not in RATES:
            raise UserError(f"{folder} does not say the sample rate of its {self._audio}")
        self._sources: dict[str, Any] = {}

    @cached_property
    def _builder(self) -> Any:
        """TFDS' read-only builder, with audio described as arrays."""
        from google.protobuf import json_format
        from tensorflow_datasets.core import dataset_info, read_only_builder
        from tensorflow_datasets.core.proto import feature_pb2

        try:
            info = dataset_info.read_from_json(str(self._folder / "dataset_info.json"))
            text = (self._folder / "features.json").read_text(encoding="utf-8")
            features = json_format.Parse(text, feature_pb2.Feature())
        except (OSError, ValueError, json_format.ParseError) as error:
            raise UserError(f"no dataset of TFDS in {self._folder}: {error}") from error
        self._rates = {}
        for name, feature in features.features_dict.features.items():
            if feature.python_class_name == _AUDIO_CLASS:
                audio = feature_pb2.AudioFeature()
                audio.CopyFrom(feature.audio)
                self._rates[name] = audio.sample_rate
                feature.python_class_name = _TENSOR_CLASS
                feature.tensor.Clear()
                feature.tensor.encoding = audio.encoding or "none"
                if audio.lazy_decode:  # the file's own bytes
                    feature.tensor.dtype = "string"
                    feature.tensor.shape.SetInParent()
                else:
                    feature.tensor.shape.CopyFrom(audio.shape)
                    feature.tensor.dtype = audio.dtype
        info.features.CopyFrom(features)
        try:
            builder = read_only_builder.ReadOnlyBuilder(str(self._folder), info_proto=info)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"cannot read the dataset in {self._folder}: {error}") from error
        metadata = builder.info.metadata or {}
        if "sample_rate" in metadata:
            self._rates.setdefault("speech", metadata["sample_rate"])
        return builder

    @property
    def version(self) -> str:
        """The dataset's version, and its files' sizes and times."""
        files = files_version(sorted(self._folder.glob("*.array_record*")))
        return f"{self._builder.info.version} {files}"

    def _source(self, split: str) -> Any:
        """Random access to the examples of a split."""
        if split not in self._sources:
            try:
                self._sources[split] = self._builder.as_data_source(split=split)
            except (ValueError, NotImplementedError, KeyError) as error:
                first = str(error).splitlines()[0]
                raise UserError(f"{self._folder}: {first}; prepare it as array_record") from error
        return self._sources[split]

    def _examples(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        for split in sorted(self._builder.info.splits):
            source = self._source(split)
            for number in range(len(source)):
                yield split, number, source[number]

    def utterances(self) -> list[Utterance]:
        """One utterance an example, split by split."""
        self.rejects = []
        features = self._builder.info.features
        names = set(features)
        speaker, text = (next((n for n in c if n in names), "") for c in (SPEAKER, TEXT))
        alone = len(self._builder.info.splits) == 1
        found = []
        for split, number, example in self._examples():
            own = _string(example.get("id", b"")).replace("/", "_")
            id = f"{self.name}/{split}/{number:08d}" + (f"/{own}" if own else "")
            try:
                said = " ".join(_string(example[text]).split()) if text else ""
            except UnicodeDecodeError:
                self.rejects.append((id, "a text that is no UTF-8"))
                continue
            who = example.get(speaker, "")
            if speaker and hasattr(features[speaker], "int2str"):
                who = features[speaker].int2str(int(who))
            who = _string(who)
            kind = _string(example.get("kind", b"recorded"))
            own_split = _string(example.get("split", b"")) or (None if alone else _split(split))
            found.append(
                Utterance(
                    id=id,
                    text=said,
                    speaker=who if self._own else "-".join(filter(None, (self.name, who))),
                    language=_string(example.get("language", b"")) or self._language,
                    licence=_string(example.get("licence", b"")) or self._licence,
                    kind="synthetic" if kind == "synthetic" else "recorded",
                    split=own_split or split_of(id, said),
                )
            )
        for place, reason in self.rejects:
            log(f"left out {place}: {reason}")
        return found

    def read(self, utterance: Utterance) -> tuple[np.ndarray, int]:
        """The wave, float32 [samples], and its sample rate; UserError when it is broken."""
        _, split, number, *_ = utterance.id.split("/")
        try:
            stored = self._source(split)[int(number)][self._audio]
        except (ValueError, IndexError, KeyError, RuntimeError) as error:
            raise UserError(f"{self._folder}: cannot read {utterance.id} ({error})") from error
        if isinstance(stored, bytes):
            return decode_audio(stored, utterance.id)
        wave = np.asarray(stored)
        if not wave.size:
            raise UserError(f"{utterance.id} is empty; leave it out")
        mono = wave.mean(axis=1) if wave.ndim > 1 else wave
        return (mono / 32768.0).astype(np.float32), self._rate


def _string(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _split(name: str) -> Split | None:
    starts = {"train": "train", "dev": "valid", "valid": "valid", "test": "test"}
    return next((split for start, split in starts.items() if name.startswith(start)), None)

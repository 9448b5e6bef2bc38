"""A TFDS dataset of any corpus: written once, then read by anybody's `tfds.data_source`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from llasa_jax.audio.io import to_int16
from llasa_jax.console import log
from llasa_jax.data.tfds import TfdsCorpus
from llasa_jax.data.utterance import Corpus
from llasa_jax.errors import UserError

ABOUT = ("text", "speaker", "language", "licence", "kind", "split")


class LlasaCorpus(tfds.core.GeneratorBasedBuilder):
    """The corpus as configuration `corpus.name`: waves as int16, metadata as texts.

    Audio is described as a tensor, which needs no TensorFlow; its rate stands in the metadata.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # nothing is downloaded, so no checksums stand beside this file

    def __init__(self, corpus: Corpus, **settings: Any) -> None:
        self._corpus = corpus
        self._utterances = corpus.utterances()
        self._rate = self._first_rate()
        config = tfds.core.BuilderConfig(name=corpus.name, description=f"Speech: {corpus.name}")
        super().__init__(config=config, **settings)

    def _first_rate(self) -> int:
        for one in self._utterances:
            try:
                return self._corpus.read(one)[1]
            except UserError:
                continue
        raise UserError(f"corpus {self._corpus.name} holds no readable recording")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        wave = tfds.features.Tensor(shape=(None,), dtype=np.int16)
        features = {"speech": wave} | dict.fromkeys(("id", *ABOUT), text)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Speech with text, from the corpus {self._corpus.name}.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(sample_rate=self._rate),
        )

    def _split_generators(self, manager: Any) -> dict[str, Any]:
        present = {one.split for one in self._utterances}
        return {split: self._generate_examples(split) for split in sorted(present)}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for one in self._utterances:
            if one.split != split:
                continue
            try:
                wave, rate = self._corpus.read(one)
            except UserError as error:
                log(f"left out {one.id}: {error}")
                continue
            if rate != self._rate:
                raise UserError(f"{one.id} has {rate} Hz, others {self._rate}; resample first")
            about = {name: getattr(one, name) for name in ABOUT}
            yield one.id, {"speech": to_int16(wave), "id": one.id} | about


def register(corpus: Corpus, folder: str | Path) -> TfdsCorpus:
    """Writes a corpus as a TFDS dataset below `folder`, and opens it.

    Waves keep their rate, which must be one for all; broken ones are named and left out.

    Raises:
      UserError: no wave can be read, rates differ, or the folder cannot be written.
    """
    try:
        builder = LlasaCorpus(corpus, data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"cannot write the dataset to {folder}: {error}") from error
    return TfdsCorpus(Path(builder.data_dir))

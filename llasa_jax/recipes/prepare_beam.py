"""`llasa data prepare --runner beam`: the same items and groups as elements of a Beam pipeline.

Beam is the engine that TFDS uses past one machine. A runner only chooses where a job runs: jobs,
results and bytes are those of `recipes.prepare`, and what is done already is not done again. The
folder, the model and the recordings must be where every worker reaches them.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llasa_jax.config import DataRun, from_dict, to_dict
from llasa_jax.errors import UserError
from llasa_jax.recipes.prepare import Preparation, settle_vocabulary


def prepare_with_beam(
    run: DataRun,
    out: str | Path,
    model: Path,
    *,
    tokenizer: Path | None = None,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """What `prepare` leaves, made by a Beam pipeline.

    Args:
        options: Beam's own, as `--runner=DirectRunner`, `--direct_num_workers=2`.

    Raises:
        UserError: apache-beam is missing, or as `prepare`.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(f"no apache-beam ({error}): pip install 'llasa-jax[beam]'") from error
    settle_vocabulary(model, tokenizer)
    work = Preparation(run, out, model)
    if not work.done():
        work.make_plan()
        where = (json.dumps(to_dict(run)), str(out), str(model))
        with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            encoded = (
                pipeline
                | "items" >> beam.Create(work.items())
                | "spread items" >> beam.Reshuffle()
                | "encode" >> beam.Map(_encode, where)
            )
            _ = (
                pipeline
                | "groups" >> beam.Create(work.groups())
                | "spread groups" >> beam.Reshuffle()
                # Groups wait for all items: a side input is whole before it is seen.
                | "pack" >> beam.Map(_pack, where, beam.pvalue.AsIter(encoded))
            )
    return work.work()


@lru_cache(maxsize=1)
def _preparation(settings: str, out: str, model: str) -> Preparation:
    """One for each worker process: the codec is loaded and compiled once."""
    return Preparation(from_dict(DataRun, json.loads(settings)), out, Path(model))


def _encode(job: str, where: tuple[str, str, str]) -> str:
    _preparation(*where).encode([job])
    return job


def _pack(job: str, where: tuple[str, str, str], encoded: Any) -> str:
    _preparation(*where).pack([job])
    return job

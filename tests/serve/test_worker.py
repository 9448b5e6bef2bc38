"""What the model's thread does with jobs, without a model."""

from types import SimpleNamespace

from llasa_jax.serve import worker as module
from llasa_jax.serve.worker import Job, Worker


class Batch:
    """Keeps what it is given."""

    idle = False

    def __init__(self, sampler, slots, guards):
        self.added = []

    def add(self, draw):
        self.added.append(draw)


def test_a_stream_goes_ahead_and_what_nobody_hears_yet_waits(monkeypatch):
    monkeypatch.setattr(module, "ContinuousBatch", Batch)
    worker = Worker(SimpleNamespace(sampler=None, guards=None), 4)
    whole, stream = (
        Job("task", seed, lambda told: None, candidates=candidates, streamed=streamed)
        for seed, candidates, streamed in ((1, 3, False), (2, 1, True))
    )
    for job in (whole, stream):
        worker.submit(job)
    worker._look()
    assert [(draw.seed, draw.number, draw.urgent) for draw in worker._batch.added] == [
        *((1, number, False) for number in range(3)),
        (2, 0, True),
    ]
    assert worker.drawing == 4

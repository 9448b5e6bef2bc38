import numpy as np
import pytest

from llasa_jax.data.shards import write_shards
from llasa_jax.errors import UserError
from llasa_jax.evaluation import bench_data as module
from llasa_jax.evaluation.bench_data import bench_data, lines


def test_rows_of_ones_own(tmp_path):
    examples = [(np.arange(1, 60), np.ones(59))] * 20
    write_shards(tmp_path / "t", examples, row=128, codec="c", vocabulary="v", about={})
    found = bench_data(tmp_path / "t", 64, 4, 1.0, 0)
    assert found["row"] == 128 and found["batch"] == 4 and found["batches"] > 1
    assert found["tokens_s"] == found["batches"] * 4 * 128 / found["seconds"]
    assert abs(found["memory_growth_mib"]) < found["memory_mib"]
    assert "million tokens a second" in lines(found)


def test_rows_that_are_made_up(monkeypatch):
    monkeypatch.setattr(module, "MADE_EXAMPLES", 40)
    found = bench_data(None, 512, 2, 1.0, 0)
    assert found["row"] == 512 and found["used"] > 0.8
    for wrong in ((64, 2, 0.0), (64, 0, 1.0), (8, 2, 1.0)):
        with pytest.raises(UserError, match="bench data"):
            bench_data(None, *wrong, 0)

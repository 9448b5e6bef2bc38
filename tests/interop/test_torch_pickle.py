"""The reader of torch files, on files made here without torch and, for parity, by torch itself."""

import io
import os
import pickle
import struct
import sys
import tempfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa_jax.errors import UserError
from llasa_jax.interop import torch_pickle
from llasa_jax.interop.torch_pickle import LEGACY_MAGIC, LEGACY_PROTOCOL, read_torch_file

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def fake(module: str, name: str, kind: type = types.FunctionType):
    """Something that pickle writes as `module name`."""
    if kind is type:
        made = type(name, (), {})
    else:
        made = lambda *_: None  # noqa: E731
        made.__name__ = made.__qualname__ = name
    made.__module__ = module
    owner = sys.modules.setdefault(module, types.ModuleType(module))
    setattr(owner, name, made)
    return made


class Writer(pickle.Pickler):
    """Pickles numpy arrays the way torch pickles tensors; `storages` collects their bytes."""

    def __init__(self, file, legacy: bool, modules: dict):
        super().__init__(file, protocol=2)
        self.legacy, self.modules, self.storages = legacy, modules, []

    def reducer_override(self, obj):
        if isinstance(obj, np.ndarray):
            contiguous = np.array(obj, order="C")
            key = str(len(self.storages))
            self.storages.append((key, contiguous))
            stride = tuple(s // obj.itemsize for s in contiguous.strides)
            store = Storage(key, contiguous, self.modules["FloatStorage"])
            arguments = (store, 0, obj.shape, stride, False, OrderedDict())
            return self.modules["_rebuild_tensor_v2"], arguments
        return NotImplemented

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        end = (None,) if self.legacy else ()
        return ("storage", obj.kind, obj.key, "cpu", obj.data.size, *end)


class Storage:
    def __init__(self, key, data, kind):
        self.key, self.data, self.kind = key, data, kind


@pytest.fixture
def modules(monkeypatch):
    """Stand-ins for the names a torch file holds, while it is written."""
    for name in ("torch", "torch._utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return {
        "FloatStorage": fake("torch", "FloatStorage", type),
        "_rebuild_tensor_v2": fake("torch._utils", "_rebuild_tensor_v2"),
    }


def legacy_bytes(content, modules) -> bytes:
    out = io.BytesIO()
    for head in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True}):
        pickle.dump(head, out, protocol=2)
    writer = Writer(out, True, modules)
    writer.dump(content)
    pickle.dump([key for key, _ in writer.storages], out, protocol=2)
    for _, data in writer.storages:
        out.write(struct.pack("<q", data.size) + data.tobytes())
    return out.getvalue()


def zip_bytes(content, modules, compression=zipfile.ZIP_STORED) -> bytes:
    out, body = io.BytesIO(), io.BytesIO()
    writer = Writer(body, False, modules)
    writer.dump(content)
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("model/data.pkl", body.getvalue())
        archive.writestr("model/byteorder", "little")
        for key, data in writer.storages:
            archive.writestr(f"model/data/{key}", data.tobytes())
    return out.getvalue()


def read(data: bytes, folder: Path):
    path = folder / "model.pt"
    path.write_bytes(data)
    return read_torch_file(path)


@pytest.mark.parametrize("layout", [legacy_bytes, zip_bytes])
def test_reads_tensors_and_plain_values(layout, modules, tmp_path):
    state = OrderedDict([("weight", WEIGHT), ("scalar", np.full((), 3, np.float32))])
    content = {"step": 7, "state": state, "list": [1.5, None, True, "naïve"], "pair": (1, WEIGHT)}
    found = read(layout(content, modules), tmp_path)
    np.testing.assert_array_equal(found["state"]["weight"], WEIGHT)
    assert found["state"]["scalar"].shape == ()
    assert found["step"] == 7 and found["list"] == [1.5, None, True, "naïve"]
    np.testing.assert_array_equal(found["pair"][1], WEIGHT)


def test_refuses_code_and_does_not_run_it(tmp_path):
    target = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(target),)

    body = pickle.dumps(Evil(), protocol=2)
    head = b"".join(
        pickle.dumps(x, protocol=2) for x in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": 1})
    )
    with pytest.raises(UserError, match=r"posix\.mkdir|nt\.mkdir"):
        read(head + body, tmp_path)
    assert not target.exists()


def test_refuses_compressed_archives(modules, tmp_path):
    with pytest.raises(UserError, match="compressed"):
        read(zip_bytes({"w": WEIGHT}, modules, zipfile.ZIP_DEFLATED), tmp_path)


def test_refuses_a_tensor_that_leaves_its_storage(modules, tmp_path, monkeypatch):
    data = zip_bytes({"w": WEIGHT}, modules)
    real = torch_pickle._CALLS["torch._utils _rebuild_tensor_v2"]
    moved = lambda storage, offset, *rest: real(storage, offset + 1, *rest)  # noqa: E731
    for table in (torch_pickle._CALLS, torch_pickle._NAMES):
        monkeypatch.setitem(table, "torch._utils _rebuild_tensor_v2", moved)
    with pytest.raises(UserError, match="leaves its storage"):
        read(data, tmp_path)


def test_shared_lists_do_not_blow_up(modules, tmp_path):
    node = [WEIGHT]
    for _ in range(60):
        node = [node, node]
    found = read(zip_bytes(node, modules), tmp_path)
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_torch_file(tmp_path / "none.pt")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_only_ever_a_user_error(data):
    """Cut anywhere or with any byte changed, a file gives values or a UserError, nothing else."""
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    for name in saved:
        sys.modules[name] = types.ModuleType(name)
    names = {
        "FloatStorage": fake("torch", "FloatStorage", type),
        "_rebuild_tensor_v2": fake("torch._utils", "_rebuild_tensor_v2"),
    }
    layout = data.draw(st.sampled_from([legacy_bytes, zip_bytes]))
    whole = bytearray(layout({"w": WEIGHT, "n": 3, "l": [(1, "a")]}, names))
    for name, module in saved.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with tempfile.TemporaryDirectory() as folder:
        try:
            read(bytes(whole[:cut] if data.draw(st.booleans()) else whole), Path(folder))
        except UserError:
            pass


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_saves(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 8)
    content = {
        "transposed": base.T,
        "slice": base[2:4, 1:5],
        "bfloat16": base.bfloat16(),
        "half": base.half(),
        "ids": torch.arange(5),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(base),
        "state": torch.nn.Linear(3, 2).state_dict(),
    }
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_torch_file(path)
    for name in ("transposed", "slice", "half", "ids", "flags"):
        np.testing.assert_array_equal(found[name], content[name].numpy())
    np.testing.assert_array_equal(
        found["bfloat16"].astype(np.float32), content["bfloat16"].float().numpy()
    )
    np.testing.assert_array_equal(found["parameter"], base.numpy())
    np.testing.assert_array_equal(found["state"]["weight"], content["state"]["weight"].numpy())

"""Every reader of what strangers give, as a function of bytes that either returns or refuses.

A target may raise `UserError`; anything else is a fault. Files are written to a folder of the
target's own, in which nothing may be left beside them.
"""

import io
import json
import struct
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile

from llasa_jax.errors import UserError


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: bytes -> nothing.
        seeds: whole inputs, to be changed.
        words: pieces that mean something to the reader.
        mebibytes: memory that one input may take, beside what the program has.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    mebibytes: int = 256


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="llasa-fuzz-"))


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Reads the input as a file of this name."""

    def target(data: bytes) -> object:
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return target


JSON = (b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b"9" * 30, b'""', b"[" * 2000, b"true")


def sound(kind: str, subtype: str | None = None) -> bytes:
    wave = 0.1 * np.sin(np.arange(800) / 9).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format=kind, subtype=subtype)
    return file.getvalue()


def audio(data: bytes) -> None:
    from llasa_jax.audio.io import decode_audio

    wave, rate = decode_audio(data, "a stranger's", 16_000)
    assert rate == 16_000 and wave.dtype == np.float32 and np.isfinite(wave).all()


def audio_seeds() -> list[bytes]:
    kinds = (("WAV", None), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None))
    return [sound(*kind) for kind in kinds]


def g722(path: Path) -> None:
    from llasa_jax.audio.io import read_audio

    read_audio(path, 16_000)


@cache
def vocabulary():
    from llasa_jax.lm.vocabulary import nano_vocabulary

    return nano_vocabulary(60)


def text(data: bytes) -> None:
    from llasa_jax.data.text import has_letters
    from llasa_jax.metrics.text import normalise
    from llasa_jax.verifiers.characters import encode, readable

    said = data.decode("utf-8", "surrogatepass" if data[:1] < b"\x80" else "replace")
    normalised = normalise(said)
    has_letters(said)
    if readable(said, normalised, " abcdefghijklmnopqrstuvwxyz'"):
        encode(normalised, " abcdefghijklmnopqrstuvwxyz'")
    ids = vocabulary().prompt(said, [1, 2])
    assert ids.min() >= 0 and ids.max() < vocabulary().size
    # No text can put a tag or a code into the prompt.
    assert not (vocabulary().encode_text(said) >= vocabulary().text_vocab).any()


def any_text(data: bytes) -> None:
    try:
        text(data)
    except UnicodeDecodeError:
        text(b"\xff" + data)


def safetensors(path: Path) -> None:
    from llasa_jax.interop.weights import Weights

    weights = Weights(path)
    for name in weights.names():
        weights.take(name, weights.shape(name))
    weights.finish()


def safetensors_seeds() -> list[bytes]:
    head = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.c": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "__metadata__": {"part": "{}"},
    }
    text = json.dumps(head).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(32)]


def model_part(path: Path) -> None:
    from flax import nnx

    from llasa_jax.config import TransformerConfig
    from llasa_jax.interop.bundle import load_part

    build = lambda config, rngs: nnx.Linear(2, 3, rngs=rngs)  # noqa: E731
    load_part(path.parent, path.stem, TransformerConfig, build)


def model_part_seeds() -> list[bytes]:
    from llasa_jax.config import TransformerConfig, to_dict

    part = {"kind": "TransformerConfig", "config": to_dict(TransformerConfig()), "about": {}}
    head = {
        "kernel": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "bias": {"dtype": "F32", "shape": [3], "data_offsets": [24, 36]},
        "__metadata__": {"part": json.dumps(part)},
    }
    text = json.dumps(head).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(36)]


def torch_file(path: Path) -> None:
    from llasa_jax.interop.torch_pickle import read_torch_file

    read_torch_file(path)


def torch_seeds() -> list[bytes]:
    """A state dict in both layouts, made without torch."""
    import pickle
    import zipfile

    tensor = (
        b"\x80\x02}(X\x01\x00\x00\x00a"
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89"
        b"ccollections\nOrderedDict\n)RtRu."
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", tensor)
        archive.writestr("m/byteorder", "little")
        archive.writestr("m/data/0", np.arange(6, dtype="<f4").tobytes())
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
    legacy = b"".join(pickle.dumps(part, 2) for part in parts) + tensor + pickle.dumps(["0"], 2)
    return [file.getvalue(), legacy + struct.pack("<q", 6) + bytes(24)]


def tokenizer(path: Path) -> None:
    from llasa_jax.lm.vocabulary import Vocabulary

    for codes in (None, 8):
        try:
            Vocabulary.load(path, codes).prompt("hello there")
        except UserError:
            pass


def config(data: bytes) -> None:
    from llasa_jax.config import DecoderConfig, SamplerConfig, from_dict, override, to_dict

    line = data.decode("utf-8", "replace")
    base = SamplerConfig()
    for act in (
        lambda: override(base, [line]),
        lambda: from_dict(DecoderConfig, json.loads(data)),
        lambda: override(base, [f"{next(iter(to_dict(base)))}={line}"]),
    ):
        try:
            act()
        except (UserError, UnicodeDecodeError, RecursionError):
            pass
        except ValueError as error:
            if not isinstance(error, json.JSONDecodeError):
                raise


def config_seeds() -> list[bytes]:
    from llasa_jax.config import DecoderConfig, SamplerConfig, to_dict

    lines = [f"{name}={value}".encode() for name, value in to_dict(SamplerConfig()).items()]
    return [*lines, json.dumps(to_dict(DecoderConfig())).encode()]


def sampling(path: Path) -> None:
    from llasa_jax.recipes.stages import load_sampling

    load_sampling(path.parent)


def sampling_seeds() -> list[bytes]:
    from llasa_jax.config import SamplerConfig, to_dict

    return [json.dumps(to_dict(SamplerConfig())).encode()]


def llama_config(path: Path) -> None:
    from llasa_jax.interop.llama import _read_config
    from llasa_jax.interop.weights import read_json

    _read_config(path, read_json(path), vocabulary().size, vocabulary(), {})


def llama_seeds() -> list[bytes]:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    values = {
        "model_type": "llama",
        "vocab_size": vocabulary().size,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "rms_norm_eps": 1e-5,
        "rope_scaling": scaling,
    }
    return [json.dumps(values).encode()]


def codes_array(path: Path) -> None:
    from llasa_jax.recipes.files import read_codes_file

    codec = SimpleNamespace(config=SimpleNamespace(frame_rate=50.0, codebook_size=1000))
    found = read_codes_file(path, codec)
    assert 0 <= found.min() <= found.max() < 1000


def array_seeds() -> list[bytes]:
    found = []
    for array in (np.arange(40, dtype=np.int32), np.arange(9, dtype=">u2"), np.zeros((2, 3))):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def code_lines(data: bytes) -> None:
    from llasa_jax.data.codes import load_codes

    load_codes(data, "a stranger's")


def code_line_seeds() -> list[bytes]:
    from llasa_jax.data.codes import Encoded, dump_codes
    from llasa_jax.data.utterance import Utterance

    one = Utterance("a/b", "hello", "ann", "en", "mine", "recorded", "train")
    encoded = [Encoded(one, np.arange(5, dtype=np.int32), 1600)]
    return [dump_codes(encoded, codec="c", codebook=60, frame_rate=50.0, rejects=[("x", "y")])]


def released_tokens(data: bytes) -> None:
    from llasa_jax.data.memmap import TokenMemmap

    head, ids = data[: len(data) // 2], data[len(data) // 2 :]
    (folder() / "train_input_ids_shape.npy").write_bytes(head)
    (folder() / "train_input_ids.memmap").write_bytes(ids)
    rows = TokenMemmap.open(folder(), "train", vocabulary())
    for index in range(min(len(rows), 50)):
        rows.parts(index)


def released_seeds() -> list[bytes]:
    file = io.BytesIO()
    np.save(file, np.array([2, 18]))  # 128 + 16 bytes, as many as the ids
    ids = np.full((2, 18), 7, np.int32).tobytes()
    return [file.getvalue() + ids]


def tar(path: Path) -> None:
    from llasa_jax.data.tars import TarCorpus

    corpus = TarCorpus(path.parent)
    for one in corpus.utterances()[:20]:
        try:
            corpus.read(one)
        except UserError:
            pass


def tar_seeds() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            long = "x" * 120 if kind != tarfile.USTAR_FORMAT else "x"
            members = {"a.json": b'{"text": "hi"}', "a.wav": sound("WAV"), f"{long}.txt": b"hi"}
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("../up.wav")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        found.append(file.getvalue())
    return found


def parquet(path: Path) -> None:
    from llasa_jax.data.parquet import ParquetCorpus

    corpus = ParquetCorpus(path.parent)
    for one in corpus.utterances()[:20]:
        try:
            corpus.read(one)
        except UserError:
            pass


def parquet_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet as files

    audio = [{"bytes": sound("WAV"), "path": "a.wav"}, {"bytes": b"", "path": None}]
    file = io.BytesIO()
    files.write_table(pyarrow.table({"audio": audio, "text": ["hello", None]}), file)
    return [file.getvalue()]


def voice(path: Path) -> None:
    from llasa_jax.recipes.voices import _read_voice

    _read_voice(path, "c0dec")


def voice_seeds() -> list[bytes]:
    values = {"version": 1, "codec": "c0dec", "name": "voice", "embedding": [0.6, 0.8]}
    values |= {"text": "hello", "codes": [1, 2, 3], "consent": "given"}
    return [json.dumps(values).encode()]


def record(data: bytes) -> None:
    from llasa_jax.data.shards import decode_row

    try:
        decode_row(data)
    except ValueError:  # which `TokenShards` turns into the shard's name
        pass


def record_seeds() -> list[bytes]:
    from llasa_jax.data.shards import Row, encode_row

    ids = np.arange(9, dtype=np.int32)
    return [encode_row(Row(np.array([4, 5]), ids, ids > 3))]


def tokenizer_seeds() -> list[bytes]:
    from llasa_jax.lm.vocabulary import nano_vocabulary

    return [nano_vocabulary(4).tokenizer.to_str().encode()]


TEXTS = ["hello there", "žluťoučký kůň", "<|s_5|><|eot_id|>", "\ud800", "a" * 300, "\u202e\0", " "]

TARGETS: dict[str, Target] = {
    "audio": Target(audio, audio_seeds, (b"RIFF", b"data", b"\xff\xff\xff\x7f", b"OggS")),
    "g722": Target(in_file("voice.g722", g722), lambda: [bytes(range(256))]),
    "text": Target(
        any_text,
        lambda: [text.encode("utf-8", "surrogatepass") for text in TEXTS],
        (b"<|s_1|>", b"<|SPEECH_GENERATION_START|>", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80"),
    ),
    "safetensors": Target(in_file("weights/w.safetensors", safetensors), safetensors_seeds, JSON),
    "model_part": Target(in_file("part/p.safetensors", model_part), model_part_seeds, JSON),
    "torch": Target(
        in_file("w.pt", torch_file), torch_seeds, (b"cos\nsystem\n", b"R", b"t", b"h\x00", b"(")
    ),
    "tokenizer": Target(in_file("tokenizer/tokenizer.json", tokenizer), tokenizer_seeds, JSON),
    "config": Target(config, config_seeds, (*JSON, b"__import__('os')", b"9**9", b"=", b".")),
    "sampling": Target(in_file("sampling/sampling.json", sampling), sampling_seeds, JSON),
    "llama_config": Target(in_file("config.json", llama_config), llama_seeds, JSON),
    "codes_array": Target(
        in_file("codes.npy", codes_array), array_seeds, (b"'O'", b"(9999999999,)", b"\x93NUMPY")
    ),
    "code_lines": Target(code_lines, code_line_seeds, (*JSON, b"\n")),
    "released_tokens": Target(released_tokens, released_seeds, (b"'<i8'", b"'|O'", b"(2,)")),
    "tar": Target(
        in_file("tars/t.tar", tar), tar_seeds, (b"ustar", b"../", b"/etc/passwd", b"0777777777")
    ),
    "parquet": Target(in_file("parquets/p.parquet", parquet), parquet_seeds, (b"PAR1",), 1024),
    "voice": Target(in_file("voice.json", voice), voice_seeds, JSON),
    "record": Target(record, record_seeds, (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff")),
}


def accepts(name: str, data: bytes) -> bool:
    """Whether a target takes the input; False where it refuses it, as it should."""
    try:
        TARGETS[name].read(data)
    except UserError as error:
        assert str(error).strip()
        return False
    return True

import numpy as np
import pytest

from llasa_jax.data import memmap as module
from llasa_jax.data.memmap import TokenMemmap, has_tokens
from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import nano_vocabulary

SIZE = 64


@pytest.fixture(scope="module")
def vocabulary():
    return nano_vocabulary(81)


def row(vocabulary, text, codes):
    """A row as the official script writes it: tags as text, codes with offset, no template."""
    tokenizer = vocabulary.tokenizer
    said = tokenizer.encode(
        f"<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>", add_special_tokens=False
    ).ids
    speech = [tokenizer.token_to_id(f"<|s_{code}|>") for code in codes]
    start, end = (tokenizer.token_to_id(f"<|SPEECH_GENERATION_{x}|>") for x in ("START", "END"))
    ids = [*said, start, *speech, end][:SIZE]
    return ids + [tokenizer.token_to_id("<|eot_id|>")] * (SIZE - len(ids))


def write(folder, split, rows):
    folder.mkdir(parents=True, exist_ok=True)
    array = np.array(rows, np.int32)
    made = np.memmap(folder / f"{split}_input_ids.memmap", np.int32, "w+", shape=array.shape)
    made[:] = array
    made.flush()
    np.save(folder / f"{split}_input_ids_shape.npy", np.array(array.shape))


def test_rows_come_apart(tmp_path, vocabulary):
    write(tmp_path, "val", [row(vocabulary, "Hi ž", [0, 80, 7]), row(vocabulary, "x", range(40))])
    assert has_tokens(tmp_path) and not has_tokens(tmp_path / "none")
    rows = TokenMemmap.open(tmp_path, "valid", vocabulary)
    assert len(rows) == 2
    parts = rows.parts(0)
    np.testing.assert_array_equal(parts.text, vocabulary.encode_text("Hi ž"))
    assert parts.codes.tolist() == [0, 80, 7] and parts.codes.dtype == np.int32
    assert rows.parts(1).codes.tolist() == list(range(40))


def test_what_is_wrong_with_a_row_is_said(tmp_path, vocabulary):
    good = row(vocabulary, "Hi", [1, 2, 3])
    end, start = vocabulary.speech_end, vocabulary.speech_start
    place = good.index(end)

    def changed(at, *ids):
        return good[:at] + list(ids) + good[at + len(ids) :]

    rows = {
        module.TRUNCATED: row(vocabulary, "Hi", [5] * 100),
        f"{module.TRUNCATED}, row not full": changed(place, vocabulary.eot),
        module.TWO_ENDS: changed(place, end, end),
        module.AFTER_END: changed(place, end, vocabulary.first_code),
        module.NO_TEXT_TAGS: changed(0, 65),
        module.NO_SPEECH_START: changed(good.index(start), vocabulary.first_code),
        module.NO_TEXT: row(vocabulary, "", [1, 2]),
        module.NO_SPEECH: row(vocabulary, "Hi", []),
        module.NOT_TEXT: changed(1, vocabulary.first_code),
        module.NOT_SPEECH: changed(place - 1, 3),  # a code without its offset
        module.UNKNOWN: changed(place - 1, vocabulary.size),
    }
    write(tmp_path, "train", list(rows.values()))
    found = TokenMemmap.open(tmp_path, "train", vocabulary)
    assert [found.parts(i) for i in range(len(rows))] == list(rows)


def test_files_that_do_not_belong_together(tmp_path, vocabulary):
    write(tmp_path, "train", [row(vocabulary, "Hi", [1])])
    np.save(tmp_path / "train_input_ids_shape.npy", np.array([2, SIZE]))
    with pytest.raises(UserError, match="2 rows of 64"):
        TokenMemmap.open(tmp_path, "train", vocabulary)
    (tmp_path / "train_input_ids_shape.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(UserError, match="fetch both files"):
        TokenMemmap.open(tmp_path, "train", vocabulary)
    np.save(tmp_path / "train_input_ids_shape.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match="fetch both files"):
        TokenMemmap.open(tmp_path, "train", vocabulary)
    with pytest.raises(UserError, match="val_input_ids"):
        TokenMemmap.open(tmp_path, "valid", vocabulary)

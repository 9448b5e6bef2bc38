import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import TAGS, Vocabulary, nano_vocabulary

NANO = nano_vocabulary(16)
TAG, CODE = 267, 275  # 256 bytes + 5 special tokens + 6 phrases; then 8 tags


def test_golden_ids_of_the_whole_template():
    # 256 begin, 258/259 header, 260 eot, 261 "\n\n", 262 date, 263 system, 264 user,
    # 265 assistant, 266 instruction; 269/270 text tags; 271/272 speech tags.
    prefix = [256, 258, 263, 259, 261, 262, 260, 258, 264, 259, 261, 266, 269]
    middle = [270, 260, 258, 265, 259, 261, 271]
    ids, weights = NANO.example("Hé", [0, 15, 7])
    assert ids.tolist() == [*prefix, 72, 195, 169, *middle, 275, 290, 282, 272, 260]
    assert weights.tolist() == [0.0] * 22 + [1.0] * 5 + [0.0]
    assert NANO.prompt("Hé").tolist() == [*prefix, 72, 195, 169, *middle]
    assert NANO.prompt("Hé", [0, 15]).tolist() == [*prefix, 72, 195, 169, *middle, 275, 290]


def test_numbers_of_the_vocabulary():
    assert (NANO.text_vocab, NANO.code_count, NANO.size) == (TAG, 16, 291)
    assert (NANO.speech_start, NANO.speech_end, NANO.first_code) == (271, 272, CODE)
    assert TAGS[0] == "<|TEXT_GENERATION_START|>" and TAGS[7] == "<|SPEECH_UNDERSTANDING_END|>"


@given(st.text(min_size=1).filter(str.strip))
def test_text_is_bytes(text):
    assert NANO.encode_text(text).tolist() == list(text.encode())


@pytest.mark.parametrize(
    "text", ["<|s_5|>", "user", "a\n\nb", "<|eot_id|>", "Convert the text to speech:", TAGS[5]]
)
def test_text_never_becomes_tags_or_phrases(text):
    assert NANO.encode_text(text).tolist() == list(text.encode())


@pytest.mark.parametrize("text", ["", "  \n", "\ud800"])
def test_empty_or_broken_text_is_refused(text):
    with pytest.raises(UserError, match="text"):
        NANO.encode_text(text)


def test_codes_go_both_ways_and_are_checked():
    codes = np.arange(16)
    assert (NANO.codes(NANO.speech_ids(codes)) == codes).all()
    for wrong in ([16], [-1], [0.5], [[1]]):
        with pytest.raises(UserError, match="code"):
            NANO.speech_ids(wrong)
    with pytest.raises(UserError, match="speech id 272 at 1"):
        NANO.codes([275, 272])


def test_saved_and_loaded_alike(tmp_path):
    NANO.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert loaded.prompt("Hello", [3]).tolist() == NANO.prompt("Hello", [3]).tolist()
    assert loaded.hash == NANO.hash != nano_vocabulary(17).hash
    loaded.save(tmp_path / "again")
    saved = [(folder / "tokenizer.json").read_bytes() for folder in (tmp_path, tmp_path / "again")]
    assert saved[0] == saved[1]


def test_wrong_tokenizers_are_refused(tmp_path):
    text = NANO.tokenizer.to_str()
    swapped = text.replace("s_3|", "s_X|").replace("s_4|", "s_3|").replace("s_X|", "s_4|")
    with pytest.raises(UserError, match=r"<\|s_3\|> has id 279, must be 278"):
        Vocabulary(Tokenizer.from_str(swapped))
    for lost in ("<|TEXT_GENERATION_START|>", "<|TEXT_GENERATION_END|>", "<|eot_id|>"):
        with pytest.raises(UserError, match="tokenizer"):
            Vocabulary(Tokenizer.from_str(text.replace(lost, "other")))
    with pytest.raises(UserError, match="not found"):
        Vocabulary.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="no readable tokenizer"):
        Vocabulary.load(tmp_path)
    with pytest.raises(UserError, match="already has"):
        Vocabulary.extend(NANO.tokenizer, 4)

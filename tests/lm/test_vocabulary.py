import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from llasa_jax.errors import UserError
from llasa_jax.lm.vocabulary import SYSTEM, TAGS, Vocabulary, nano_vocabulary

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


def test_golden_ids_of_the_other_direction():
    prefix = [256, 258, 263, 259, 261, 262, 260, 258, 264, 259, 261]
    prefix += [*b"Convert the speech to text:", 273]
    middle = [274, 260, 258, 265, 259, 261, 267]
    ids, weights = NANO.example("Hé", [0, 15], "understanding")
    assert ids.tolist() == [*prefix, 275, 290, *middle, 72, 195, 169, 268, 260]
    assert weights.tolist() == [0.0] * (len(ids) - 5) + [1.0] * 4 + [0.0]
    assert NANO.transcription_prompt([0, 15]).tolist() == [*prefix, 275, 290, *middle]
    with pytest.raises(UserError, match="nothing to transcribe"):
        NANO.transcription_prompt([])


def llama_3(first_special):
    """A tokenizer whose text ids 0..255 are bytes, with Llama 3's 256 special tokens behind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    letters |= {chr(256 + place): byte for place, byte in enumerate(other)}
    assert sorted(letters) == alphabet
    fillers = {f"filler {id}": id for id in range(256, first_special)}
    tokenizer = Tokenizer(models.BPE(vocab=letters | fillers, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id"}
    names |= {6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag"}
    specials = [names.get(place, f"reserved_special_token_{place}") for place in range(256)]
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in specials])
    return tokenizer


@pytest.mark.parametrize("special", [256, 128_000])
def test_golden_ids_with_the_special_tokens_of_llama_3(special):
    """The paper's sequence by hand; 128,000 is where Llama 3's own specials begin."""
    real = special == 128_000
    codes = 65_536 if real else 20
    vocabulary = Vocabulary.extend(llama_3(special), codes)
    begin, header, header_end, eot = special, special + 6, special + 7, special + 9
    tags = special + 256
    first_code = tags + 8
    system = b"\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    expected = [begin, header, *b"system", header_end, *system, eot]
    expected += [header, *b"user", header_end, *b"\n\nConvert the text to speech:", tags + 2]
    expected += [*"h\u00e9 ".encode(), tags + 3, eot]
    expected += [header, *b"assistant", header_end, *b"\n\n", tags + 4]
    assert vocabulary.prompt("h\u00e9 ").tolist() == expected
    ids, weights = vocabulary.example("h\u00e9 ", [0, 3, codes - 1])
    spoken = [first_code, first_code + 3, first_code + codes - 1]
    assert ids.tolist() == [*expected, *spoken, tags + 5, eot]
    assert np.flatnonzero(weights).tolist() == list(range(len(expected) - 1, len(ids) - 1))
    assert (vocabulary.eot, vocabulary.speech_end, vocabulary.text_end) == (eot, tags + 5, tags + 1)
    if real:
        assert (begin, header, header_end, eot) == (128_000, 128_006, 128_007, 128_009)
        assert [vocabulary.tokenizer.token_to_id(tag) for tag in TAGS] == list(
            range(128256, 128264)
        )
        assert (first_code, spoken[-1], vocabulary.size) == (128_264, 193_799, 193_800)


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
    swapped = tmp_path / "swapped.json"
    swapped.write_text(text.replace("TEXT_GENERATION_START", "TEXT_GENERATION_STOP"))
    with pytest.raises(UserError, match=r"swapped.json: tokenizer: <\|TEXT_GENERATION_END"):
        Vocabulary.load(swapped, 16)  # some tags are there: not to be appended again
    with pytest.raises(UserError, match="already has"):
        Vocabulary.extend(NANO.tokenizer, 4)


@pytest.mark.parametrize("direction", ["generation", "understanding"])
def test_text_ids_are_assembled_as_their_text(direction):
    codes = [3, 15, 0]
    expected = NANO.example("Hi", codes, direction)
    for ours, theirs in zip(
        NANO.assemble(NANO.encode_text("Hi"), codes, direction), expected, strict=True
    ):
        assert ours.tolist() == theirs.tolist() and ours.dtype == theirs.dtype
    with pytest.raises(UserError, match="must not be empty"):
        given = ([], codes) if direction == "generation" else (NANO.encode_text("Hi"), [])
        NANO.assemble(*given, direction)


def test_a_chat_is_llamas_and_only_the_assistant_is_learned():
    ids, weights = NANO.chat([("user", "Hi <|eot_id|>"), ("assistant", "Yes."), ("user", "So?")])
    text = (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi <|eot_id|><|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSo?<|eot_id|>"
    )
    assert NANO.tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
    assert NANO.tokenizer.decode(ids[weights == 1].tolist(), skip_special_tokens=False) == (
        "Yes.<|eot_id|>"
    )
    assert sum(ids == NANO.eot) == 4  # the user's own is plain text
    own = NANO.chat([("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes.")])[0]
    assert "Be kind." in NANO.tokenizer.decode(own.tolist(), skip_special_tokens=False)
    for wrong in ([("user", "Hi")], [("tool", "Hi")], [("user", ""), ("assistant", "Yes.")], []):
        with pytest.raises(UserError):
            NANO.chat(wrong)

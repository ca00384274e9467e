"""The tokenizer: against openai-whisper where that is installed, and round trips without it."""

# ruff: noqa: E501, RUF001  (the sentences)

from __future__ import annotations

import functools
import hashlib
import random
import subprocess
import sys
import threading
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_vocabulary import pack, read_tiktoken

from whisper_cy import vocabulary
from whisper_cy.errors import OptionError
from whisper_cy.tokenizer import (
    LANGUAGES,
    TO_LANGUAGE_CODE,
    Tokenizer,
    get_tokenizer,
    language_code,
    split_pieces,
)

LINES = """
Good morning! It's 7:45, and we've missed the 8 o'clock train; they'll wait, he'd said, won't they?
Zwölf Boxkämpfer jagten Eva über den großen Sylter Deich – für 3,50 € pro Person.
L'été dernier, nous étions à Besançon ; qu'est-ce qu'il faisait chaud là-bas…
¿Cuántos años tenía el niño cuando llegó el pingüino? ¡Ocho años y medio!
Amanhã à noite não há pão, só maçãs e três limões.
Perché così tardi? È già mezzanotte, e il caffè è freddo.
Żółta łódź płynie wzdłuż brzegu, a gęś pije wodę.
Příliš žluťoučký kůň, řekl děda, pěl ďábelské ódy.
Ősszel a fűzfák és a körtefák is lehullatják levelüket.
Când plouă, pisica stă în pridvor şi țipă.
Yarın öğleden sonra İstanbul'da yağmur bekleniyor, ılık bir gün.
Hôm nay trời nắng, chúng tôi đi chợ mua rau muống và cá rô.
Kun yö päättyi, väsynyt hyönteinen söi vielä yhden mansikan.
Þetta er ágætur dagur til að æfa sig á fiðlu.
Вчера вечером мы слушали радио: «Маяк», 567 кГц.
Щира їжа — ґречний подарунок під'їзду №5.
Кажа, че ще дойде в събота; ћирилица и љубав такође.
Καλημέρα! Τι ώρα φεύγει το τρένο για τη Θεσσαλονίκη;
שלום, מה שלומך היום? אכלתי תפוח וגם אגס.
متى يصل القطار إلى المحطة؟ قالَ إنَّهُ سَيَصِلُ غَدًا في الساعة ٥٫٣٠.
امروز هوا خیلی خوب است و ما به باغ می‌رویم؛ ۱۲ نفر.
آج موسم بہت اچھا ہے، چائے پیتے ہیں۔
कल सुबह नौ बजे स्कूल की घंटी बजेगी, क्षमा कीजिए। १२३
আজ বৃষ্টি হবে, তাই ছাতা নিয়ে যেও।
ਸਤ ਸ੍ਰੀ ਅਕਾਲ, ਤੁਸੀਂ ਕਿਵੇਂ ਹੋ?
આજે રવિવાર છે અને બજાર બંધ છે.
நாளை மழை பெய்யும் என்று வானொலி சொன்னது.
రేపు ఉదయం మేము కొండ ఎక్కుతాము.
ನಾಳೆ ಬೆಳಿಗ್ಗೆ ಹಕ್ಕಿಗಳು ಹಾಡುತ್ತವೆ.
മഴ പെയ്യുമ്പോൾ കുട കൊണ്ടുപോകണം.
හෙට උදේ අපි මුහුදට යනවා.
พรุ่งนี้เช้าเราจะไปตลาดน้ำกันนะครับ ราคา ๒๐ บาท
ມື້ນີ້ອາກາດດີຫຼາຍ ພວກເຮົາໄປຕະຫຼາດ
မနက်ဖြန် ဈေးသွားပြီး ငါးဝယ်မယ်။
ថ្ងៃស្អែកយើងនឹងទៅផ្សារ។
བཀྲ་ཤིས་བདེ་ལེགས། དེ་རིང་གནམ་གཤིས་ཡག་པོ་འདུག
明天早上八点,我们去公园放风筝。一共三個人!
今日は雨なので、図書館でコーヒーを飲みながら本を読みます。ｶﾀｶﾅ、①②③
내일 아침 일찍 산에 올라가서 도시락을 먹을 거예요.
聽日我哋去飲茶,食蝦餃同埋叉燒包啦。𠮷野家 𨋢
ხვალ დილით მთაში მივდივართ.
Վաղը առավոտյան մենք սար կբարձրանանք։
ነገ ጠዋት ወደ ገበያ እንሄዳለን።
Маргааш өглөө бид уул руу явна. ᠮᠣᠩᠭᠣᠯ
Ua mau ke ea o ka ʻāina i ka pono; ọ̀sán àwọn ọmọ ń ṣeré.
👩‍👩‍👧‍👦 family, 🇺🇳 flag, 👍🏽 thumb, ❤️‍🔥 heart, 1️⃣ keycap, 🏴󠁧󠁢󠁳󠁣󠁴󠁿 Scotland
e\u0301 versus é, Z\u0351\u036b\u0343a\u0329l\u034dg\u0334o\u0321, ﬁ ligature, ½ + ⅓ = Ⅴ, x² ≠ x₂, ∑∫√∞
<|startoftranscript|><|en|><|transcribe|> is only text, and so are <|endoftext|> and <|0.00|>
♪ la la ♫ [MUSIC] (applause) >> SPEAKER: -- "so" 'twas '80s I'M HE'S they'RE 'sx 'llama
https://example.org/a_b?c=%20&d={e}#f ~/.bashrc C:\\temp `x += y[0]; // done` 3.14159e-26 1,000,000
""".strip("\n").split("\n")

ODD_LINES = [
    "",
    " ",
    "\n",
    "\u00a0no-break\u202fnarrow\u3000ideographic \u2028 line \u2029 paragraph \u0085 next\u200bzero",
    "tabs\t\tand  several   spaces    \r\n\r\n then \v\f lines \n\n   ",
    "\ufeffmark \x00\x01\x07\x1b[31mcontrol\x1c\x1d\x1e\x1f\x7f bytes \x80\x9f \ue000 \U0010ffff",
    "decomposed e\u0301 Z\u0351\u036b\u0343a\u0329l\u034dg\u0334o\u0321 \u1112\u1161\u11ab",
]

MODELS = [(True, 99), (True, 100), (False, 99)]


@functools.cache
def own(multilingual: bool, num_languages: int = 99) -> Tokenizer:
    return get_tokenizer(multilingual, num_languages=num_languages)


@pytest.fixture(scope="session")
def openai() -> Callable[..., Any]:
    """openai-whisper's get_tokenizer, or skip."""
    reference = pytest.importorskip("whisper.tokenizer", reason="openai-whisper is not installed")
    make: Callable[..., Any] = reference.get_tokenizer
    return make


def mixed_lines(count: int) -> list[str]:
    """Lines cut from the sentences at any character and joined, so that scripts meet in words."""
    random_source = random.Random(20)
    characters = "".join(LINES + ODD_LINES)
    lines = []
    for _ in range(count):
        cuts = [
            random_source.randrange(len(characters)) for _ in range(random_source.randint(1, 5))
        ]
        lines.append("".join(characters[i : i + random_source.randint(1, 30)] for i in cuts))
    return lines


def character_lines(length: int) -> list[str]:
    """Every character this Python's Unicode has assigned once, length of them a line, shuffled."""
    characters = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
    ]
    random.Random(21).shuffle(characters)
    return ["".join(characters[i : i + length]) for i in range(0, len(characters), length)]


def token_lists(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Lists of any tokens, half of them of single bytes, so that most are invalid UTF-8."""
    random_source = random.Random(22)
    size = max(tokenizer.special_tokens.values()) + 1
    return [
        [
            random_source.randrange(random_source.choice((256, tokenizer.eot, size)))
            for _ in range(random_source.randint(0, 12))
        ]
        for _ in range(count)
    ]


# --- text <-> tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("multilingual", [True, False])
def test_round_trip_over_many_scripts(multilingual: bool) -> None:
    tokenizer = own(multilingual)
    for line in LINES + ODD_LINES + mixed_lines(5000):
        tokens = tokenizer.encode(line)
        assert tokenizer.decode(tokens) == line
        assert all(token < tokenizer.eot for token in tokens)


@pytest.mark.parametrize("multilingual", [True, False])
def test_round_trip_of_every_character(multilingual: bool) -> None:
    tokenizer = own(multilingual)
    for line in character_lines(200):
        assert tokenizer.decode(tokenizer.encode(line)) == line


@pytest.mark.parametrize(
    ("multilingual", "digest"),
    [
        (True, "070adb7efda2e618"),
        (False, "5cc44455ed94b856"),
    ],
)
def test_tokens_are_those_openai_gives(multilingual: bool, digest: str) -> None:
    """The digest is of openai-whisper's tokens, so that this holds without that package."""
    tokens = [own(multilingual).encode(line) for line in LINES + ODD_LINES]
    assert hashlib.sha256(repr(tokens).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("multilingual", [True, False])
def test_encoding_equals_openai(openai: Callable[..., Any], multilingual: bool) -> None:
    tokenizer, reference = own(multilingual), openai(multilingual).encoding
    for line in LINES + ODD_LINES + mixed_lines(5000) + character_lines(300):
        assert tokenizer.encode(line) == reference.encode_ordinary(line), ascii(line)


def test_encoding_of_generated_text_equals_openai(openai: Callable[..., Any]) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    known = hypothesis.strategies.characters(exclude_categories=("Cn", "Cs"))

    def check(text: str) -> None:
        tokens = own(True).encode(text)
        assert tokens == openai(True).encoding.encode_ordinary(text)
        assert own(True).decode(tokens) == text

    given = hypothesis.given(hypothesis.strategies.text(known))
    hypothesis.settings(max_examples=200, deadline=None)(given(check))()


@pytest.mark.parametrize(("multilingual", "num_languages"), MODELS)
def test_decoding_of_any_tokens_equals_openai(
    openai: Callable[..., Any], multilingual: bool, num_languages: int
) -> None:
    tokenizer = own(multilingual, num_languages)
    reference = openai(multilingual, num_languages=num_languages)
    every = [[token] for token in range(reference.encoding.n_vocab)]
    for tokens in every + token_lists(tokenizer, 5000):
        assert tokenizer.decode(tokens) == reference.decode(tokens)
        assert tokenizer.decode_with_timestamps(tokens) == reference.decode_with_timestamps(tokens)


def test_invalid_bytes_become_replacement_characters() -> None:
    tokenizer = own(True)
    single = {
        byte: vocabulary.token_bytes("multilingual").index(bytes([byte])) for byte in range(256)
    }
    assert tokenizer.decode([single[0xE4], single[0xBD], single[0xA0]]) == "\u4f60"
    assert tokenizer.decode([single[0xE4], single[0xBD], single[0x41]]) == "\ufffdA"
    assert tokenizer.decode([single[0x80], single[0xFF]]) == "\ufffd\ufffd"


def test_special_tokens_in_a_text_are_text() -> None:
    tokenizer = own(True)
    text = "<|endoftext|><|0.00|>"
    assert max(tokenizer.encode(text)) < tokenizer.eot
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lone_surrogates_count_as_replacement_characters(openai: Callable[..., Any]) -> None:
    text = "a\udc80b\ud83d"
    assert own(True).decode(own(True).encode(text)) == "a\ufffdb\ufffd"
    assert own(True).encode(text) == openai(True).encode(text)


def test_timestamps_are_dropped_or_shown() -> None:
    tokenizer = own(True)
    begin = tokenizer.timestamp_begin
    tokens = [begin, *tokenizer.encode(" Hi."), begin + 54, tokenizer.eot, begin + 1500]
    assert tokenizer.decode(tokens) == " Hi.<|endoftext|>"
    shown = "<|0.00|> Hi.<|1.08|><|endoftext|><|30.00|>"
    assert tokenizer.decode_with_timestamps(tokens) == shown


def test_decode_takes_arrays_iterators_and_nothing() -> None:
    tokenizer = own(True)
    tokens = tokenizer.encode(" as it comes")
    assert tokenizer.decode(np.array(tokens)) == tokenizer.decode(iter(tokens)) == " as it comes"
    assert tokenizer.decode([]) == tokenizer.decode_with_timestamps([]) == ""
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("token", [-1, 51866])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(OptionError, match=f"{token} is not a token"):
        own(True, 100).decode_with_timestamps([0, token])


def test_pieces_follow_the_pattern_of_gpt2() -> None:
    text = "I'll say: it's 12½ \u00a0 km!!\n\n Über'm Berg  "
    pieces = ["I", "'ll", " say", ":", " it", "'s", " 12½", " \u00a0", " km", "!!", "\n\n", " Über"]
    assert split_pieces(text) == [*pieces, "'m", " Berg", "  "]
    assert "".join(split_pieces("".join(LINES))) == "".join(LINES)


def test_a_long_text_without_spaces_is_quick() -> None:
    """Merging is n log n: this took minutes if it scanned all pairs for each merge."""
    text = "没有空格的很长的文字" * 2000
    assert own(True).decode(own(True).encode(text)) == text


def test_many_threads_share_a_tokenizer() -> None:
    expected = [own(True).encode(line) for line in LINES]
    results: list[list[list[int]]] = []

    def encode_all() -> None:
        results.append([get_tokenizer(True).encode(line) for line in LINES])

    threads = [threading.Thread(target=encode_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


# --- special tokens and languages ----------------------------------------------------------------

IDS = "eot sot sot_lm sot_prev no_speech no_timestamps timestamp_begin transcribe translate"
OF_A_LANGUAGE = "language task num_languages sot_sequence sot_sequence_including_notimestamps"


@pytest.mark.parametrize(("multilingual", "num_languages"), MODELS)
def test_every_language_and_task_equals_openai(
    openai: Callable[..., Any], multilingual: bool, num_languages: int
) -> None:
    for language in (None, *list(LANGUAGES)[:num_languages]):
        for task in (None, "transcribe", "translate"):
            tokenizer, reference = (
                make(multilingual, num_languages=num_languages, language=language, task=task)
                for make in (get_tokenizer, openai)
            )
            for name in OF_A_LANGUAGE.split():
                assert getattr(tokenizer, name) == getattr(reference, name), (name, language, task)
            if multilingual:
                assert tokenizer.language_token == reference.language_token


@pytest.mark.parametrize(("multilingual", "num_languages"), MODELS)
def test_special_tokens_equal_openai(
    openai: Callable[..., Any], multilingual: bool, num_languages: int
) -> None:
    """openai-whisper lists the languages in the order of a set, so in another one each time."""
    tokenizer = own(multilingual, num_languages)
    reference = openai(multilingual, num_languages=num_languages)
    assert tokenizer.special_tokens == reference.special_tokens
    assert tokenizer.non_speech_tokens == reference.non_speech_tokens
    for name in IDS.split():
        assert getattr(tokenizer, name) == getattr(reference, name), name
    assert tokenizer.all_language_tokens == tuple(sorted(reference.all_language_tokens))
    assert set(tokenizer.all_language_codes) == set(reference.all_language_codes)
    for code, token in zip(
        tokenizer.all_language_codes, tokenizer.all_language_tokens, strict=True
    ):
        assert tokenizer.to_language_token(code) == reference.to_language_token(code) == token


@pytest.mark.parametrize(
    ("multilingual", "num_languages", "size"),
    [(False, 99, 51864), (True, 99, 51865), (True, 100, 51866)],
)
def test_the_tokens_are_those_of_the_checkpoints(
    multilingual: bool, num_languages: int, size: int
) -> None:
    tokenizer = own(multilingual, num_languages)
    assert list(tokenizer.special_tokens.values()) == list(range(tokenizer.eot, size))
    assert tokenizer.decode_with_timestamps([size - 1]) == "<|30.00|>"


def test_languages_equal_openai() -> None:
    reference = pytest.importorskip("whisper.tokenizer", reason="openai-whisper is not installed")
    assert list(LANGUAGES.items()) == list(reference.LANGUAGES.items())
    assert TO_LANGUAGE_CODE == reference.TO_LANGUAGE_CODE


@pytest.mark.parametrize("language", ["de", "DE", "german", "German"])
def test_a_language_has_codes_and_names_in_any_case(language: str) -> None:
    assert language_code(language) == "de"
    assert get_tokenizer(True, language=language) is get_tokenizer(True, language="de")


@pytest.mark.parametrize(("name", "code"), [("Haitian Creole", "ht"), ("castilian", "es")])
def test_names_of_several_words_and_aliases(name: str, code: str) -> None:
    assert language_code(name) == code


def test_an_english_only_tokenizer_has_no_language() -> None:
    tokenizer = get_tokenizer(False, language="de", task="translate")
    assert (tokenizer.language, tokenizer.task, tokenizer.sot_sequence) == (None, None, (50257,))
    with pytest.raises(OptionError, match="English-only"):
        _ = tokenizer.language_token


@pytest.mark.parametrize("multilingual", [True, False])
@pytest.mark.parametrize("language", ["xx", "klingon", ""])
def test_an_unknown_language_is_refused(multilingual: bool, language: str) -> None:
    with pytest.raises(OptionError, match=r"unknown language.*LANGUAGES lists all"):
        get_tokenizer(multilingual, language=language)


def test_a_language_the_model_lacks_is_refused() -> None:
    assert get_tokenizer(True, num_languages=100, language="cantonese").language == "yue"
    with pytest.raises(OptionError, match="does not know the language 'yue'"):
        get_tokenizer(True, num_languages=99, language="cantonese")
    with pytest.raises(OptionError, match="does not know the language 'yue'"):
        own(True).to_language_token("yue")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown task 'sing'"):
        get_tokenizer(True, task="sing")


# --- words ---------------------------------------------------------------------------------------


def test_a_broken_character_is_split_from_its_neighbours() -> None:
    """The example of openai-whisper's own tests: half a character stands before a whole one."""
    words, word_tokens = own(True).split_tokens_on_unicode(
        [8404, 871, 287, 6, 246, 526, 3210, 20378]
    )
    assert words == [" elle", " est", " l", "'", "\ufffd", "é", "rit", "oire"]
    assert word_tokens == [[8404], [871], [287], [6], [246], [526], [3210], [20378]]


def test_words_keep_their_leading_space_and_punctuation_stands_alone() -> None:
    tokenizer = own(True)
    tokens = [*tokenizer.encode(" Unbelievably, it works!"), tokenizer.eot]
    words, word_tokens = tokenizer.split_to_word_tokens(tokens)
    assert words == [" Unbelievably", ",", " it", " works", "!", "<|endoftext|>"]
    assert [token for group in word_tokens for token in group] == tokens


def test_languages_without_spaces_are_split_by_character() -> None:
    tokenizer = get_tokenizer(True, language="ja")
    words, _ = tokenizer.split_to_word_tokens(tokenizer.encode("今日は雨"))
    assert "".join(words) == "今日は雨"
    assert len(words) > 1


@pytest.mark.parametrize("language", ["en", "ja"])
def test_words_of_any_tokens_equal_openai(openai: Callable[..., Any], language: str) -> None:
    """Where the reference loses tokens or fails, ours must have every token once."""
    tokenizer, reference = get_tokenizer(True, language=language), openai(True, language=language)
    texts = [tokenizer.encode(line) for line in LINES + mixed_lines(500)]
    for tokens in texts + token_lists(tokenizer, 3000):
        words, word_tokens = tokenizer.split_to_word_tokens(tokens)
        assert [token for group in word_tokens for token in group] == tokens
        try:
            expected = reference.split_to_word_tokens(list(tokens))
        except IndexError:
            continue
        if sum(map(len, expected[1])) == len(tokens):
            assert (words, word_tokens) == expected


# --- the vocabulary ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "multilingual"])
def test_the_vocabulary_is_openais(name: str) -> None:
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed")
    tokens = read_tiktoken(Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken")
    assert list(vocabulary.token_bytes(name)) == tokens


def test_packing_gives_the_merges_in_rank_order() -> None:
    singles = [bytes([byte]) for byte in range(256)]
    data = zlib.decompress(pack([*singles, b"ab", b"cd", b"abcd", b"abcde"]))
    assert data[:256] == b"".join(singles)
    left_low, left_high, right_low, right_high = (data[i : i + 4] for i in range(256, 272, 4))
    assert left_low + left_high == bytes([97, 99, 0, 2, 0, 0, 1, 1])
    assert right_low + right_high == bytes([98, 100, 1, 101, 0, 0, 1, 0])


@pytest.mark.parametrize("name", ["gpt2", "multilingual"])
def test_merges_join_earlier_tokens_to_the_next(name: str) -> None:
    tokens, merges = vocabulary.token_bytes(name), vocabulary.merges(name)
    assert [left + right for left, right in merges] == list(tokens[256 : 256 + len(merges)])
    assert len(tokens) == vocabulary.SIZES[name]


def test_printable_bytes_are_those_of_gpt2() -> None:
    letters = vocabulary.printable_bytes()
    assert (letters[0x41], letters[0x20], letters[0x0A], letters[0xAD]) == ("A", "Ġ", "Ċ", "Ń")
    assert len(set(letters)) == 256
    assert not any(letter.isspace() for letter in letters)


def test_an_unknown_vocabulary_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown vocabulary 'gpt3': choose one of gpt2, multil"):
        vocabulary.token_bytes("gpt3")


def test_importing_the_tokenizer_is_light() -> None:
    """Neither a tokenizer library nor the vocabulary is loaded until it is needed."""
    code = (
        "import sys, whisper_cy.tokenizer as t; t.get_tokenizer(True).sot_sequence;"
        "print({'tokenizers', 'tiktoken', 'regex', 'json', 'torch', 'transformers'} & {*sys.modules},"
        "t.vocabulary.token_bytes.cache_info().currsize)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set() 0"

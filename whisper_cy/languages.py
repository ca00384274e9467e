"""The languages of Whisper's multilingual models, in the order of their tokens, and their names."""

from __future__ import annotations

from .errors import OptionError

# The order is OpenAI's: language i has the token <|startoftranscript|> + 1 + i. The models up to
# large-v2 know the first 99; large-v3 added Cantonese.
_CODES_AND_NAMES = """
    en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja
    japanese, pt portuguese, tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish,
    it italian, id indonesian, hi hindi, fi finnish, vi vietnamese, he hebrew, uk ukrainian, el
    greek, ms malay, cs czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian, th
    thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam,
    cy welsh, sk slovak, te telugu, fa persian, lv latvian, bn bengali, sr serbian, az
    azerbaijani, sl slovenian, kn kannada, et estonian, mk macedonian, br breton, eu basque, is
    icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk kazakh, sq albanian, sw
    swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn shona, yo yoruba, so
    somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu
    gujarati, am amharic, yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian creole, ps
    pashto, tk turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish, my myanmar, bo
    tibetan, tl tagalog, mg malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa,
    ba bashkir, jw javanese, su sundanese, yue cantonese
"""

_OTHER_NAMES = {
    "burmese": "my",
    "castilian": "es",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "mandarin": "zh",
    "moldavian": "ro",
    "moldovan": "ro",
    "panjabi": "pa",
    "pushto": "ps",
    "sinhalese": "si",
    "valencian": "ca",
}


def _parse(table: str) -> dict[str, str]:
    """ "en english, zh chinese" -> {"en": "english", "zh": "chinese"}."""
    pairs = (entry.split(maxsplit=1) for entry in table.split(","))
    return {code: " ".join(name.split()) for code, name in pairs}


LANGUAGES: dict[str, str] = _parse(_CODES_AND_NAMES)
TO_LANGUAGE_CODE: dict[str, str] = {
    **{name: code for code, name in LANGUAGES.items()},
    **_OTHER_NAMES,
}


def language_code(language: str) -> str:
    """The code ("de") of a language given by its code or one of its names, in any case."""
    name = str(language).lower()
    code = name if name in LANGUAGES else TO_LANGUAGE_CODE.get(name)
    if code is None:
        raise OptionError(
            f"unknown language {language!r}: give a code such as 'de' or a name such as 'german' "
            "(whisper_cy.tokenizer.LANGUAGES lists all)"
        )
    return code

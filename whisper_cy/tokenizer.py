"""Text <-> tokens of Whisper's models, identical to OpenAI's.

    text -> pieces (GPT-2's pattern) -> UTF-8 bytes -> byte-pair merges, lowest rank first -> tokens
    tokens -> bytes of each, joined -> UTF-8, U+FFFD where the bytes are invalid -> text

Both ways are plain Python: a prompt has a few hundred tokens and a segment a few dozen, so that a
tokenizer library would cost more at import than it could save, and merging by rank on the bytes is
the definition itself rather than a translation of it. The vocabulary is read at first use.

Special tokens follow the vocabulary: <|endoftext|>, <|startoftranscript|>, the languages, the tasks
and markers, and 1,501 timestamps 0.02 s apart. `encode` never makes one: "<|en|>" in a text is five
characters that somebody wrote. (openai-whisper raises ValueError for such a text.)
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property, lru_cache
from heapq import heapify, heappop, heappush

from . import vocabulary
from .errors import OptionError
from .languages import LANGUAGES, TO_LANGUAGE_CODE, language_code

__all__ = ["LANGUAGES", "TO_LANGUAGE_CODE", "Tokenizer", "get_tokenizer", "language_code"]

TASKS = ("transcribe", "translate")

# Written without spaces between words, so that a word cannot be told from its tokens alone.
_UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})

# OpenAI suppresses these symbols where each is one token, alone or after a space ...
_SYMBOLS = '"#()*+/:;<=>@[\\]^_`{|}~「」『』'
_GROUPS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
# ... and of these the first token whatever follows, which U+2640 to U+267F have in common ...
_MUSIC = "♩♪♫♬♭♮♯"
# ... and these at the beginning of a word only.
_WORD_STARTS = (" -", " '")


def get_tokenizer(
    multilingual: bool,
    *,
    num_languages: int = 99,
    language: str | None = None,
    task: str | None = None,
) -> Tokenizer:
    """The tokenizer of a model, one object for each combination, as openai-whisper's function.

    language is a code or an English name in any case, task "transcribe" or "translate"; without
    them a multilingual model gets English and transcribe. An English-only model has neither.
    """
    if task is not None and task not in TASKS:
        raise OptionError(f"unknown task {task!r}: choose one of {', '.join(TASKS)}")
    code = None if language is None else language_code(language)
    if not multilingual:
        return _tokenizer("gpt2", num_languages, None, None)
    code = code or "en"
    if code not in list(LANGUAGES)[:num_languages]:
        raise OptionError(f"this model does not know the language {code!r} ({LANGUAGES[code]})")
    return _tokenizer("multilingual", num_languages, code, task or "transcribe")


@cache
def _tokenizer(name: str, num_languages: int, language: str | None, task: str | None) -> Tokenizer:
    return Tokenizer(name, num_languages, language, task)


class Tokenizer:
    """One vocabulary with its special tokens, for one language and task. Nothing of it changes."""

    def __init__(
        self, vocabulary_name: str, num_languages: int, language: str | None, task: str | None
    ) -> None:
        """vocabulary_name "gpt2" or "multilingual"; language a code that the model knows."""
        self.vocabulary_name = vocabulary_name
        self.num_languages = num_languages
        self.language = language
        self.task = task
        self.special_tokens = special = vocabulary.special_tokens(vocabulary_name, num_languages)
        self.eot = special["<|endoftext|>"]
        self.sot = special["<|startoftranscript|>"]
        self.translate = special["<|translate|>"]
        self.transcribe = special["<|transcribe|>"]
        self.sot_lm = special["<|startoflm|>"]
        self.sot_prev = special["<|startofprev|>"]
        self.no_speech = special["<|nospeech|>"]
        self.no_timestamps = special["<|notimestamps|>"]
        self.timestamp_begin = special["<|0.00|>"]

    def encode(self, text: str) -> list[int]:
        """The tokens of text, never a special one. A lone surrogate counts as U+FFFD."""
        return _encoder(self.vocabulary_name).encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens without the timestamps among them; invalid UTF-8 gives U+FFFD."""
        begin = self.timestamp_begin
        return self.decode_with_timestamps([token for token in tokens if token < begin])

    def decode_with_timestamps(self, tokens: Iterable[int]) -> str:
        """The text of tokens with each timestamp as "<|1.08|>"."""
        tokens = list(tokens)
        table = _token_table(self.vocabulary_name, self.num_languages)
        if tokens and not 0 <= min(tokens) <= max(tokens) < len(table):
            wrong = next(token for token in tokens if not 0 <= token < len(table))
            raise OptionError(f"{wrong} is not a token: the vocabulary has 0 to {len(table) - 1}")
        return b"".join(map(table.__getitem__, tokens)).decode("utf-8", errors="replace")

    @cached_property
    def sot_sequence(self) -> tuple[int, ...]:
        """What every decoding begins with: <|startoftranscript|>, the language, the task."""
        sequence = [self.sot]
        if self.language is not None:
            sequence.append(self.to_language_token(self.language))
        if self.task is not None:
            sequence.append(self.transcribe if self.task == "transcribe" else self.translate)
        return tuple(sequence)

    @cached_property
    def sot_sequence_including_notimestamps(self) -> tuple[int, ...]:
        """sot_sequence and <|notimestamps|>."""
        return (*self.sot_sequence, self.no_timestamps)

    @property
    def language_token(self) -> int:
        """The token of this tokenizer's language."""
        if self.language is None:
            raise OptionError("this tokenizer is of an English-only model: it has no language")
        return self.to_language_token(self.language)

    def to_language_token(self, code: str) -> int:
        """The token of the language with this code."""
        if code not in self.all_language_codes:
            raise OptionError(f"this model does not know the language {code!r}")
        return self.special_tokens[f"<|{code}|>"]

    @cached_property
    def all_language_codes(self) -> tuple[str, ...]:
        """The codes of the model's languages, in the order of their tokens."""
        return tuple(LANGUAGES)[: self.num_languages]

    @cached_property
    def all_language_tokens(self) -> tuple[int, ...]:
        """The tokens of the model's languages, ascending."""
        return tuple(range(self.sot + 1, self.sot + 1 + len(self.all_language_codes)))

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """The tokens, ascending, of speaker tags, brackets, notes and other things nobody says."""
        found = {self.encode(text)[0] for text in _WORD_STARTS}
        for symbol in (*_SYMBOLS, *_GROUPS.split(), *_MUSIC):
            for tokens in (self.encode(symbol), self.encode(" " + symbol)):
                if len(tokens) == 1 or symbol in _MUSIC:
                    found.add(tokens[0])
        return tuple(sorted(found))

    def split_to_word_tokens(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """tokens -> words and the tokens of each; single characters where words have no spaces."""
        if self.language in _UNSPACED_LANGUAGES:
            return self.split_tokens_on_unicode(tokens)
        return self.split_tokens_on_spaces(tokens)

    def split_tokens_on_unicode(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """tokens -> the shortest texts of whole characters, and the tokens of each.

        A U+FFFD ends a text only where the whole has one too. Every token is in one text, even if
        the last bytes are cut off (there openai-whisper raises IndexError or loses tokens).
        """
        whole = self.decode_with_timestamps(tokens)
        words: list[str] = []
        word_tokens: list[list[int]] = []
        offset, pending = 0, list[int]()
        for index, token in enumerate(tokens, start=1):
            pending.append(token)
            text = self.decode_with_timestamps(pending)
            broken = text.find("\ufffd")
            ends = broken < 0 or whole[offset + broken :][:1] in ("\ufffd", "")
            if ends or index == len(tokens):
                words.append(text)
                word_tokens.append(pending)
                offset, pending = offset + len(text), []
        return words, word_tokens

    def split_tokens_on_spaces(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """tokens -> words with their leading space, and the tokens of each.

        Punctuation and every special token are words of their own.
        """
        words: list[str] = []
        word_tokens: list[list[int]] = []
        for part, part_tokens in zip(*self.split_tokens_on_unicode(tokens), strict=True):
            special = part_tokens[0] >= self.eot
            if special or not words or part.startswith(" ") or part.strip() in string.punctuation:
                words.append(part)
                word_tokens.append(part_tokens)
            else:
                words[-1] += part
                word_tokens[-1] += part_tokens
        return words, word_tokens


@cache
def _token_table(name: str, num_languages: int) -> tuple[bytes, ...]:
    """The bytes of every token, special ones included, by id."""
    specials = vocabulary.special_tokens(name, num_languages)
    return (*vocabulary.token_bytes(name), *(token.encode() for token in specials))


@cache
def _encoder(name: str) -> _Encoder:
    return _Encoder(vocabulary.token_bytes(name))


class _Encoder:
    """Text -> tokens: GPT-2's pieces, each merged by rank. Safe to use from several threads."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._ranks = {token: rank for rank, token in enumerate(tokens) if token}
        self._piece_tokens = lru_cache(maxsize=8192)(self._merge)  # words come again

    def encode(self, text: str) -> list[int]:
        """The tokens of text; a lone surrogate, which UTF-8 cannot hold, counts as U+FFFD."""
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return [token for piece in split_pieces(text) for token in self._piece_tokens(piece)]

    def _merge(self, piece: str) -> tuple[int, ...]:
        """The tokens of one piece: of all neighbours the pair of lowest rank is joined, repeatedly.

        `ends[i]` is where the part beginning at byte i ends, or the piece's end once it was joined
        to the part before; after the last part comes an empty one, and b"" has no rank. An entry
        of the heap is void when the parts at its place have changed since.
        """
        data, ranks = piece.encode(), self._ranks
        if data in ranks:
            return (ranks[data],)
        size = len(data)
        ends = [*range(1, size + 1), 0]
        before = list(range(-1, size))  # where the part before the one beginning at i begins
        heap = [(ranks[data[i : i + 2]], i) for i in range(size - 1) if data[i : i + 2] in ranks]
        heapify(heap)
        while heap:
            rank, start = heappop(heap)
            middle = ends[start]
            if ranks.get(data[start : ends[middle]]) != rank:
                continue
            ends[start], ends[middle] = ends[middle], size
            before[ends[start]] = start
            for left in (before[start], start):
                if left >= 0 and (joined := data[left : ends[ends[left]]]) in ranks:
                    heappush(heap, (ranks[joined], left))
        return tuple(self._walk(data, ends))

    def _walk(self, data: bytes, ends: Sequence[int]) -> Iterator[int]:
        """The token of each part of data."""
        start = 0
        while start < len(data):
            yield self._ranks[data[start : ends[start]]]
            start = ends[start]


# GPT-2's pattern with letters, numbers and white space as _SHAPES writes them. GPT-2 has it as
# 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
_PIECE = re.compile(
    r"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)


class _Shapes(dict[int, int]):
    """Code point -> an ASCII one of the same class for the pattern, found when first asked for.

    Python's `re` has no \\p{L} and \\p{N}, so the pattern runs over shapes; ASCII is its own shape.
    The classes are those of this Python's Unicode; OpenAI's differ where Unicode has grown since.
    """

    def __missing__(self, code: int) -> int:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if code < 128:
            shape = character
        elif kind in "LN":
            shape = "a" if kind == "L" else "0"
        else:
            shape = "\t" if character.isspace() else "#"
        self[code] = ord(shape)
        return ord(shape)


_SHAPES = _Shapes()


def split_pieces(text: str) -> list[str]:
    """text in the pieces within which byte pairs are merged: words with their leading space, ..."""
    if text.isascii():
        return _PIECE.findall(text)
    return [text[slice(*match.span())] for match in _PIECE.finditer(text.translate(_SHAPES))]

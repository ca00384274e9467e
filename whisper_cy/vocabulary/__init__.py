"""Whisper's two byte-pair vocabularies as data: "gpt2" (the `.en` models) and "multilingual".

A byte-pair vocabulary is 256 single bytes and then, in rank order, the join of two earlier tokens.
Each file is one zlib stream of exactly that, 164 kB instead of OpenAI's 820 kB of base64:

    256 bytes            the single-byte tokens in rank order
    4 planes of n bytes  the ranks which each further token joins: left low, left high,
                         right low, right high

The two share 29,380 tokens at different ranks, so that one file for both would save nothing.
tests/make_vocabulary.py makes the files from openai-whisper's. Nothing is read before first use.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path

from ..errors import OptionError
from ..languages import LANGUAGES

SIZES = {"gpt2": 50256, "multilingual": 50257}  # ordinary tokens of each


@cache
def token_bytes(name: str) -> tuple[bytes, ...]:
    """The bytes of every ordinary token by rank, (SIZES[name],)."""
    singles, lefts, rights = _read(name)
    tokens = [singles[i : i + 1] for i in range(256)]
    for left, right in zip(lefts, rights, strict=True):
        tokens.append(tokens[left] + tokens[right])
    if name == "multilingual":
        tokens.append(b"")  # GPT-2 had <|endoftext|> at this rank; OpenAI kept the place, empty
    return tuple(tokens)


def merges(name: str) -> list[tuple[bytes, bytes]]:
    """The 50,000 merges in rank order: the two tokens that token 256 + i joins."""
    tokens = token_bytes(name)
    _, lefts, rights = _read(name)
    return [(tokens[left], tokens[right]) for left, right in zip(lefts, rights, strict=True)]


@cache
def special_tokens(name: str, num_languages: int) -> dict[str, int]:
    """The special tokens and ids, ascending, of a model that knows the first num_languages."""
    specials = (
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in tuple(LANGUAGES)[:num_languages]),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{step * 0.02:.2f}|>" for step in range(1501)),
    )
    return {token: SIZES[name] + i for i, token in enumerate(specials)}


def printable_bytes() -> list[str]:
    """(256,) the character for each byte in files of GPT-2's format (vocab.json, merges.txt).

    A visible Latin-1 character stands for itself, the other bytes take U+0100 onwards in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(b) if b in visible else chr(0x100 + hidden.index(b)) for b in range(256)]


def _read(name: str) -> tuple[bytes, tuple[int, ...], tuple[int, ...]]:
    """The 256 single bytes, and the left and the right ranks which the further tokens join."""
    if name not in SIZES:
        raise OptionError(f"unknown vocabulary {name!r}: choose one of {', '.join(SIZES)}")
    data = zlib.decompress(Path(__file__).with_name(f"{name}.bin").read_bytes())
    count = (len(data) - 256) // 4
    ranks = bytearray(4 * count)  # little-endian 16-bit, all left ones and then all right ones
    ranks[0::2] = data[256 : 256 + count] + data[256 + 2 * count : 256 + 3 * count]
    ranks[1::2] = data[256 + count : 256 + 2 * count] + data[256 + 3 * count :]
    flat = struct.unpack(f"<{2 * count}H", ranks)
    return data[:256], flat[:count], flat[count:]

"""Makes whisper_cy/vocabulary/*.bin from the *.tiktoken files of an installed openai-whisper.

    python tests/make_vocabulary.py whisper_cy/vocabulary

The format is described in whisper_cy/vocabulary/__init__.py; test_tokenizer.py compares the result.
"""

from __future__ import annotations

import base64
import sys
import zlib
from itertools import pairwise
from pathlib import Path


def read_tiktoken(path: Path) -> list[bytes]:
    """The tokens of an OpenAI vocabulary file in rank order; one line is "<base64> <rank>"."""
    rows = (line.split() for line in path.read_text().splitlines() if line)
    ranks = {int(rank): base64.b64decode(token) for token, rank in rows}
    return [ranks[rank] for rank in range(len(ranks))]


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[int, int]:
    """The ranks of the two tokens which byte-pair encoding joins last to make `token`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        best = min(range(len(joined)), key=joined.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return ranks[parts[0]], ranks[parts[1]]


def pack(tokens: list[bytes]) -> bytes:
    """The package's file for these tokens.

    Raises ValueError where they are no byte-pair vocabulary.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs = [last_merge(token, ranks) for token in tokens[256:] if token]
    if any(max(pair) >= 256 + i for i, pair in enumerate(pairs)):
        raise ValueError("a token joins tokens of higher rank")
    planes = [
        bytes(pair[side] >> shift & 255 for pair in pairs) for side in (0, 1) for shift in (0, 8)
    ]
    return zlib.compress(b"".join(tokens[:256]) + b"".join(planes), 9)


def main() -> None:
    import whisper

    assets = Path(whisper.__file__).parent / "assets"
    for name in ("gpt2", "multilingual"):
        data = pack(read_tiktoken(assets / f"{name}.tiktoken"))
        Path(sys.argv[1], f"{name}.bin").write_bytes(data)
        print(f"{name}: {len(data):,} bytes")


if __name__ == "__main__":
    main()

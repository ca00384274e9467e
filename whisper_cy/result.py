"""What a transcription gives: Transcript -> Segment -> Word, with openai-whisper's field names.

Times are seconds from the start of the recording. `to_dict` gives the dictionaries which
openai-whisper returns, key for key and in its order, with plain Python numbers that json can write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """One word with its leading space, its times (s) and its mean token probability (0..1)."""

    word: str
    start: float
    end: float
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's dictionary of a word."""
        return {
            "word": self.word,
            "start": float(self.start),
            "end": float(self.end),
            "probability": float(self.probability),
        }


@dataclass(frozen=True)
class Segment:
    """One stretch of speech from start to end (s), and how its window was decoded.

    `seek` is the frame (10 ms) where the window begins, `tokens` include the timestamps. The last
    four describe the whole window, so segments of one window share them. `words` is None where word
    times were not asked for.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[Word, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """openai-whisper's dictionary of a segment; "words" only where there are words."""
        fields: dict[str, Any] = {
            "id": int(self.id),
            "seek": int(self.seek),
            "start": float(self.start),
            "end": float(self.end),
            "text": self.text,
            "tokens": [int(token) for token in self.tokens],
            "temperature": float(self.temperature),
            "avg_logprob": float(self.avg_logprob),
            "compression_ratio": float(self.compression_ratio),
            "no_speech_prob": float(self.no_speech_prob),
        }
        if self.words is not None:
            fields["words"] = [word.to_dict() for word in self.words]
        return fields


@dataclass(frozen=True)
class Transcript:
    """A whole recording: its text, its segments in order and the code of its language ("en")."""

    text: str
    segments: tuple[Segment, ...]
    language: str

    def to_dict(self) -> dict[str, Any]:
        """Exactly what openai-whisper's transcribe returns."""
        return {
            "text": self.text,
            "segments": [segment.to_dict() for segment in self.segments],
            "language": self.language,
        }

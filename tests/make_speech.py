"""Make tests/data/*.flac: the sentences below as synthetic speech, 16 kHz mono, the text beside it.

    pip install hibari-tts==0.2.1 soundfile soxr && python tests/make_speech.py

The voice is inside hibari-tts (Apache-2.0); the seed makes every run give the same sound.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from hibari import Hibari

DATA = Path(__file__).resolve().parent / "data"
VOICE_RATE = 24000
SAMPLE_RATE = 16000
PAUSE = 0.35  # seconds between sentences

RECORDINGS = {
    "speech": [
        "The old lighthouse keeper climbed the stairs every evening and lit the lamp.",
        "Far out at sea, a small boat turned toward the harbor.",
        "By morning the storm had passed, and the sea was quiet.",
    ],
    "train": [
        "The train to the coast leaves in ten minutes.",
    ],
}


def spoken(voice: Hibari, sentences: list[str]) -> np.ndarray:
    """The sentences with a pause after each -> float32 (n,) at 16 kHz."""
    pause = np.zeros(int(PAUSE * VOICE_RATE), np.float32)
    parts = [part for text in sentences for part in (voice(text, seed=0), pause)]
    return soxr.resample(np.concatenate(parts), VOICE_RATE, SAMPLE_RATE)


def main() -> None:
    DATA.mkdir(exist_ok=True)
    voice = Hibari()
    for name, sentences in RECORDINGS.items():
        path = DATA / f"{name}.flac"
        soundfile.write(path, spoken(voice, sentences), SAMPLE_RATE, subtype="PCM_16")
        path.with_suffix(".txt").write_text(" ".join(sentences) + "\n", "utf-8")


if __name__ == "__main__":
    main()

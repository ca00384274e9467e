"""What a Python program uses: load_model() and the methods of the model it gives."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any

from . import model, models, weights
from .audio import AudioSource
from .decoding import detect_language
from .errors import OptionError
from .result import Transcript
from .threads import default_threads
from .transcribe import SegmentStream, open_log_mel, opening_window, segments, transcribe

COMPUTE_TYPES = ("float32",)


class Whisper(model.Whisper):
    """A loaded model. Calls keep no state on it, so several threads may use one at once.

    `audio` is a path, '-' for standard input, a file object, or samples (n,) at 16 kHz; the options
    are those of openai-whisper's transcribe() and DecodingOptions, `progress` and `cancel`.
    """

    def transcribe(self, audio: AudioSource, **options: Any) -> Transcript:
        """The whole recording: text, segments and language."""
        return transcribe(self, audio, **options)

    def segments(self, audio: AudioSource, **options: Any) -> SegmentStream:
        """An iterator of the segments, each as soon as it is decoded."""
        return segments(self, audio, **options)

    def detect_language(self, audio: AudioSource) -> tuple[str, dict[str, float]]:
        """The language of the first 30 s -> (code, {code: probability})."""
        with open_log_mel(self, audio) as log_mel:
            return detect_language(self, self.encode(opening_window(log_mel)))

    def __repr__(self) -> str:
        dims = self.dims
        kind = "multilingual" if self.is_multilingual else "English-only"
        return (
            f"<whisper_cy.Whisper: {kind}, {dims.n_audio_layer} + {dims.n_text_layer} layers of "
            f"{dims.n_audio_state}, {dims.n_mels} mel bands, {self.threads} threads>"
        )


def load_model(
    name_or_path: str | os.PathLike[str],
    compute_type: str = "float32",
    threads: int | None = None,
    download_root: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Whisper:
    """A name such as "tiny.en", or the path of weights in any format -> a model ready to use.

    threads: None for the physical cores this process may use. download_root: where downloads are
    kept, None for the Hugging Face cache. local_files_only: never use the network.
    """
    if compute_type not in COMPUTE_TYPES:
        known = ", ".join(COMPUTE_TYPES)
        raise OptionError(f"compute_type {compute_type!r} is not available: choose from {known}")
    if threads is not None and not (isinstance(threads, Integral) and threads >= 1):
        raise OptionError(f"threads is a number from 1, or None, not {threads!r}")
    path = models.resolve(name_or_path, download_root, local_files_only)
    return Whisper(weights.load_checkpoint(path), threads or default_threads())

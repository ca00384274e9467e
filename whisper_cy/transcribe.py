"""A recording of any length -> segments, by openai-whisper's sequential seek.

window of 30 s at `seek` -> tokens -> cut at the timestamps -> segments; `seek` moves to the last
timestamp that closed a segment; what was said before is the prompt of the next window.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .audio import HOP_LENGTH, N_FRAMES, SAMPLE_RATE, AudioSource, LogMel, open_audio
from .decoding import (
    CancelToken,
    DecodingOptions,
    DecodingResult,
    WindowDecoder,
    check_cancelled,
    detect_language,
    require_bool,
    require_number,
    require_text,
)
from .errors import OptionError
from .result import Segment, Transcript

if TYPE_CHECKING:
    from .model import Whisper

Array = npt.NDArray[np.float32]

HIGH_TEMPERATURE = 0.5  # above it a window's text is too loose to be a prompt
INSTEAD = {
    "prompt": "give initial_prompt: each window's prompt is made of it and of what was said",
    "verbose": "iterate over segments() to print them, or pass progress",
}


def frames_to_seconds(n_frames: int) -> float:
    return n_frames * HOP_LENGTH / SAMPLE_RATE


@dataclass(frozen=True)
class Progress:
    """How far a call has come, in seconds of the recording."""

    done: float
    total: float


# --- options -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TranscribeOptions:
    """openai-whisper's names and defaults; those of a single window are in `decoding`.

    With one temperature there is nothing to fall back to, so compression_ratio_threshold decides
    nothing and logprob_threshold only which windows count as silence, as in openai-whisper.
    """

    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = True
    initial_prompt: str | None = None
    carry_initial_prompt: bool = False
    word_timestamps: bool = False
    prepend_punctuations: str = "\"'“¿([{-"
    append_punctuations: str = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001
    clip_timestamps: str | Sequence[float] = "0"
    hallucination_silence_threshold: float | None = None
    progress: Callable[[Progress], None] | None = None
    cancel: CancelToken | None = None
    decoding: DecodingOptions = field(default_factory=DecodingOptions)

    def __post_init__(self) -> None:
        self._refuse_what_is_not_there()
        require_number("compression_ratio_threshold", self.compression_ratio_threshold)
        require_number("logprob_threshold", self.logprob_threshold)
        require_number("no_speech_threshold", self.no_speech_threshold, 0, 1)
        require_bool("condition_on_previous_text", self.condition_on_previous_text)
        require_bool("carry_initial_prompt", self.carry_initial_prompt)
        for name in ("initial_prompt", "prepend_punctuations", "append_punctuations"):
            require_text(name, getattr(self, name))
        if self.progress is not None and not callable(self.progress):
            raise OptionError("progress is a function of one Progress, or None")
        if self.cancel is not None and not hasattr(self.cancel, "is_set"):
            raise OptionError("cancel is a threading.Event, or None")

    def _refuse_what_is_not_there(self) -> None:
        require_bool("word_timestamps", self.word_timestamps)
        if self.word_timestamps:
            raise OptionError("word_timestamps: not available yet; leave it at False")
        if self.hallucination_silence_threshold is not None:
            raise OptionError(
                "hallucination_silence_threshold: it needs word_timestamps, which is not "
                "available yet; leave it at None"
            )
        if self.clip_timestamps not in ("", "0", [], [0], (), (0,)):
            raise OptionError("clip_timestamps: clips are not available yet; leave it at '0'")

    @staticmethod
    def from_keywords(options: dict[str, Any]) -> TranscribeOptions:
        """Keywords of transcribe(), those of DecodingOptions among them."""
        of_window = {f.name for f in fields(DecodingOptions)} - INSTEAD.keys()
        of_recording = {f.name for f in fields(TranscribeOptions)} - {"decoding"}
        for name in options:
            if name not in of_window | of_recording:
                raise OptionError(_unknown_option(name, sorted(of_window | of_recording)))
        decoding = {name: value for name, value in options.items() if name in of_window}
        if isinstance(decoding.get("temperature"), (list, tuple)):
            decoding["temperature"] = _single_temperature(decoding["temperature"])
        others = {name: value for name, value in options.items() if name in of_recording}
        return TranscribeOptions(**others, decoding=DecodingOptions(**decoding))


def _unknown_option(name: str, known: Sequence[str]) -> str:
    if name in INSTEAD:
        return f"{name} is not an option of transcribe: {INSTEAD[name]}"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(known)}"
    return f"unknown option {name}: {hint}"


def _single_temperature(temperatures: Sequence[float]) -> float:
    if len(temperatures) != 1:
        raise OptionError("temperature: fallback is not available yet; give one temperature, 0")
    return temperatures[0]


# --- prompt --------------------------------------------------------------------------------------


class PromptHistory:
    """The tokens the next window is conditioned on: never more than a prompt can hold."""

    def __init__(self, initial: Sequence[int], carry: bool, longest: int) -> None:
        """longest: tokens in a prompt; carry: every prompt begins with `initial`."""
        self._head = list(initial) if carry else []
        self._said = [] if carry else list(initial)
        self._longest = longest

    def prompt(self) -> list[int]:
        room = self._longest - len(self._head)
        # Where a carried prompt leaves no room, the slice begins at 0 or at a positive index, and
        # what was said pushes the prompt out again: openai-whisper's arithmetic, kept.
        return [*self._head, *self._said[-room:]]

    def extend(self, tokens: Sequence[int]) -> None:
        self._said.extend(tokens)
        del self._said[: -max(self._longest, len(self._head))]

    def reset(self) -> None:
        self._said = []


# --- one window's tokens -> segments -------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A window cut into segments: (start, end) in seconds from the window's begin, and tokens."""

    pieces: list[tuple[float, float, list[int]]]
    advance: int  # mel frames to the next window


def cut_window(
    tokens: Sequence[int], n_frames: int, timestamp_begin: int, frames_per_step: int
) -> Cut:
    """tokens of a window with n_frames of content -> its segments and where the next one begins."""
    seconds_per_step = frames_to_seconds(frames_per_step)
    is_timestamp = [token >= timestamp_begin for token in tokens]
    borders = [i for i in range(1, len(tokens)) if is_timestamp[i - 1] and is_timestamp[i]]
    # One timestamp at the end, not a pair: nothing is said after it.
    ends_in_silence = is_timestamp[-2:] == [False, True]
    if not borders:
        steps = [token - timestamp_begin for token in tokens if token >= timestamp_begin]
        end = steps[-1] * seconds_per_step if steps and steps[-1] else frames_to_seconds(n_frames)
        return Cut([(0.0, end, list(tokens))], n_frames)
    if ends_in_silence:
        borders.append(len(tokens))
    pieces = []
    for start, stop in zip([0, *borders], borders, strict=False):
        piece = list(tokens[start:stop])
        first, last = piece[0] - timestamp_begin, piece[-1] - timestamp_begin
        pieces.append((first * seconds_per_step, last * seconds_per_step, piece))
    if ends_in_silence:
        return Cut(pieces, n_frames)
    advance = (tokens[borders[-1] - 1] - timestamp_begin) * frames_per_step
    # Without the timestamp rules a pair may say 0.00: go on with the next window all the same.
    return Cut(pieces, advance if advance > 0 else n_frames)


def is_silence(result: DecodingResult, options: TranscribeOptions) -> bool:
    """Nobody speaks, by the model's own account, unless its text is sure enough."""
    if options.no_speech_threshold is None or result.no_speech_prob <= options.no_speech_threshold:
        return False
    sure = options.logprob_threshold is not None and result.avg_logprob > options.logprob_threshold
    return not sure


# --- the whole recording -------------------------------------------------------------------------


class SegmentStream(Iterator[Segment]):
    """The segments of a recording, each as soon as it is decoded.

    `language` (a code), whether it was `detected`, and `duration` (s) are known from the first
    segment on. Closing the stream closes the recording; memory does not grow with what was said.
    """

    def __init__(self, model: Whisper, audio: AudioSource, options: TranscribeOptions) -> None:
        self.language: str | None = None
        self.detected = False
        self.duration: float | None = None
        self._model = model
        self._options = options
        self._check = partial(check_cancelled, options.cancel)
        self._asked_language = _known_language(model, options.decoding)
        self._decoder = self._window_decoder(self._asked_language)
        self._segments = self._run(audio)

    def __next__(self) -> Segment:
        return next(self._segments)

    def close(self) -> None:
        self._segments.close()

    def decode_text(self, tokens: Sequence[int]) -> str:
        return self._decoder.tokenizer.decode(list(tokens))

    def _window_decoder(self, language: str | None) -> WindowDecoder:
        return WindowDecoder(self._model, replace(self._options.decoding, language=language))

    def _run(self, audio: AudioSource) -> Generator[Segment, None, None]:
        with open_log_mel(self._model, audio, self._check) as log_mel:
            self.duration = frames_to_seconds(log_mel.content_frames)
            first = self._settle_language(log_mel)
            for number, segment in enumerate(self._windows(log_mel, first)):
                yield replace(segment, id=number)

    def _settle_language(self, log_mel: LogMel) -> Array | None:
        """Detects the language where it was not given -> features of the first 30 s, if made."""
        language, features = self._asked_language, None
        if language is None:
            features = self._model.encode(opening_window(log_mel), self._check)
            language, _ = detect_language(self._model, features)
            self.detected = True
            self._decoder = self._window_decoder(language)
        self.language = language
        return features

    def _windows(self, log_mel: LogMel, first: Array | None) -> Iterator[Segment]:
        history = self._prompt_history()
        seek, content_frames = 0, log_mel.content_frames
        self._report(seek, content_frames)
        while seek < content_frames:
            n_frames = min(N_FRAMES, content_frames - seek)
            features = self._features(log_mel, seek, n_frames, first)
            first = None
            result = self._decoder.decode(features, history.prompt(), self._options.cancel)
            cut = self._cut(result, n_frames)
            segments = [self._segment(seek, piece, result) for piece in cut.pieces]
            self._remember(history, segments, result)
            yield from segments
            seek += cut.advance
            self._report(min(seek, content_frames), content_frames)

    def _features(self, log_mel: LogMel, seek: int, n_frames: int, first: Array | None) -> Array:
        """Of the window at `seek`; first: those of the opening 30 s, for the first window."""
        # A shorter window ends in zeros of the mel, the opening one in the mel of silence.
        if first is not None and n_frames == N_FRAMES:
            return first
        return self._model.encode(padded_window(log_mel, seek, n_frames), self._check)

    def _cut(self, result: DecodingResult, n_frames: int) -> Cut:
        if is_silence(result, self._options):
            return Cut([], n_frames)
        frames_per_step = N_FRAMES // self._model.dims.n_audio_ctx
        begin = self._decoder.tokenizer.timestamp_begin
        return cut_window(result.tokens, n_frames, begin, frames_per_step)

    def _remember(
        self, history: PromptHistory, segments: Sequence[Segment], result: DecodingResult
    ) -> None:
        """What the next windows are conditioned on; silence changes nothing."""
        for segment in segments:
            history.extend(segment.tokens)
        loose = result.temperature > HIGH_TEMPERATURE
        if segments and (loose or not self._options.condition_on_previous_text):
            history.reset()

    def _prompt_history(self) -> PromptHistory:
        options, tokenizer = self._options, self._decoder.tokenizer
        initial = (
            []
            if options.initial_prompt is None
            else tokenizer.encode(" " + options.initial_prompt.strip())
        )
        longest = self._model.dims.n_text_ctx // 2 - 1
        return PromptHistory(initial, options.carry_initial_prompt, longest)

    def _segment(
        self, seek: int, piece: tuple[float, float, list[int]], result: DecodingResult
    ) -> Segment:
        """One segment, blank where it has no length or no text: such a one is an artefact."""
        offset = frames_to_seconds(seek)
        start, end, tokens = piece
        tokenizer = self._decoder.tokenizer
        text = tokenizer.decode([token for token in tokens if token < tokenizer.eot])
        blank = offset + start == offset + end or not text.strip()
        return Segment(
            id=0,
            seek=seek,
            start=offset + start,
            end=offset + end,
            text="" if blank else text,
            tokens=() if blank else tuple(tokens),
            temperature=result.temperature,
            avg_logprob=result.avg_logprob,
            compression_ratio=result.compression_ratio,
            no_speech_prob=result.no_speech_prob,
            words=() if blank else None,
        )

    def _report(self, done_frames: int, total_frames: int) -> None:
        if self._options.progress is not None:
            done, total = frames_to_seconds(done_frames), frames_to_seconds(total_frames)
            self._options.progress(Progress(done, total))


@contextmanager
def open_log_mel(
    model: Whisper, audio: AudioSource, check: Callable[[], None] | None = None
) -> Iterator[LogMel]:
    with open_audio(audio, check) as samples:
        yield LogMel(samples, model.dims.n_mels, model.threads, check)


def opening_window(log_mel: LogMel) -> Array:
    """(n_mels, 3000): what the language is detected from, the first 30 s with silence after it."""
    return padded_window(log_mel, 0, N_FRAMES)


def padded_window(log_mel: LogMel, seek: int, n_frames: int) -> Array:
    """(n_mels, 3000): n_frames of the recording from frame `seek`, then 0.0 in mel space."""
    mel = log_mel.window(seek, n_frames)
    padded = np.zeros((mel.shape[0], N_FRAMES), dtype=np.float32)
    padded[:, : mel.shape[1]] = mel
    return padded


def _known_language(model: Whisper, options: DecodingOptions) -> str | None:
    """The language asked for, 'en' where the model knows no other, None where to detect it."""
    if model.is_multilingual:
        return options.language
    if options.language not in (None, "en") or options.task != "transcribe":
        warnings.warn("this model knows only English and transcribes it", stacklevel=2)
    return "en"


def segments(model: Whisper, audio: AudioSource, **options: Any) -> SegmentStream:
    """audio: a path, '-', a file object or 16 kHz samples (n,) -> its segments as decoded.

    The options are checked here, the recording is opened with the first segment asked for.
    """
    return SegmentStream(model, audio, TranscribeOptions.from_keywords(options))


def transcribe(model: Whisper, audio: AudioSource, **options: Any) -> Transcript:
    """audio: a path, '-', a file object or 16 kHz samples (n,) -> the whole transcript."""
    stream = segments(model, audio, **options)
    found = tuple(stream)
    text = stream.decode_text([token for segment in found for token in segment.tokens])
    return Transcript(text=text, segments=found, language=stream.language or "en")

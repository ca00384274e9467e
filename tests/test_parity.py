"""whisper-cy against openai-whisper, run live on the same weights and the same samples in float32.

The same tokens, times and text for every recording, encoder output and first logits within 1e-4;
a window may differ only at a near-tie (openai_reference.py), and at most one in WINDOWS_PER_TIE.
Needs openai-whisper with torch, and weights (conftest.py). The marker `parity` holds this file;
`full` holds the long run: every recording, tiny.en and base, and ten minutes at one go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Recording, project_speech, speech

pytest.importorskip("torch", reason="needs torch: the parity tests run openai-whisper")
pytest.importorskip("whisper", reason="needs openai-whisper: the parity tests run it")

import openai_reference as openai

import whisper_cy
from whisper_cy import audio, errors, weights

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::UserWarning")]

THREADS = 2
TORCH_THREADS = 1  # on a busy machine two of its threads wait for each other for minutes
RELATIVE_ERROR = 1e-4
WINDOWS_PER_TIE = 200
CONCATENATION_SECONDS = 600
FEW = ("jfk-wav", "lj002-0020", "wk-es", "lv-sonnet3")
MODES = {"timestamps": {}, "text only": {"without_timestamps": True}}
OPTIONS: dict[str, dict[str, Any]] = {
    "initial prompt": {"initial_prompt": "A speech by John F. Kennedy"},
    "no condition, no thresholds": {
        "condition_on_previous_text": False,
        "no_speech_threshold": None,
        "logprob_threshold": None,
        "compression_ratio_threshold": None,
    },
    "nothing suppressed": {"suppress_tokens": "", "suppress_blank": False},
    "late first time": {"max_initial_timestamp": None},
    "prefix": {"prefix": "And so, my", "sample_len": 40},
    "short sample": {"sample_len": 12},
}


@dataclass(frozen=True)
class Engines:
    """One set of weights in both engines."""

    openai: Any
    own: Any


@dataclass
class Tally:
    """What a comparison saw, window by window."""

    windows: int = 0
    near_ties: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Fail for any real difference, and for near-ties beyond what rounding explains."""
        allowed = max(1, self.windows // WINDOWS_PER_TIE)
        report = "\n".join([*self.failures, *self.near_ties])
        print(f"{self.windows} windows, {len(self.near_ties)} at a near-tie\n{report}")
        assert not self.failures, report
        assert len(self.near_ties) <= allowed, report


@cache
def load(path: Path) -> Engines:
    return Engines(
        openai.build(weights.load_checkpoint(path)), whisper_cy.load_model(path, threads=THREADS)
    )


@pytest.fixture(autouse=True)
def few_torch_threads() -> Iterator[None]:
    with openai.torch_threads(TORCH_THREADS):
        yield


@cache
def samples(path: Path) -> np.ndarray:
    """The recording (n,) float32 at 16 kHz, the same array for both engines."""
    return audio.load_audio(path)


def readable(recordings: list[Recording]) -> list[Recording]:
    """The recordings this machine can decode (AAC, MP4, WebM and WMA need the extra av)."""
    kept = []
    for recording in recordings:
        try:
            samples(recording.path)
        except errors.AudioError as error:
            print(f"left out: {error}")
        else:
            kept.append(recording)
    return kept


def every_recording() -> list[Recording]:
    recordings = readable(project_speech() + speech())
    if not recordings:
        pytest.skip("no recordings: neither in tests/data nor in WHISPER_CY_TEST_SPEECH")
    return recordings


def few_recordings() -> list[Recording]:
    recordings = readable(project_speech() + [item for item in speech() if item.id in FEW])
    if not recordings:
        pytest.skip("no recordings: neither in tests/data nor in WHISPER_CY_TEST_SPEECH")
    return recordings


def concatenation(recordings: list[Recording]) -> np.ndarray:
    """At least CONCATENATION_SECONDS of English, half a second of silence after each recording."""
    pause = np.zeros(audio.SAMPLE_RATE // 2, np.float32)
    parts: list[np.ndarray] = []
    english = [item for item in recordings if item.language == "en"]
    length = 0
    while english and length < CONCATENATION_SECONDS * audio.SAMPLE_RATE:
        for item in english:
            parts += [samples(item.path), pause]
        length = sum(map(len, parts))
    return np.concatenate(parts)[: int(1.1 * CONCATENATION_SECONDS) * audio.SAMPLE_RATE]


def compare(
    engines: Engines, name: str, sound: np.ndarray, tally: Tally, **options: Any
) -> dict[str, Any]:
    """Transcribe in both engines, note every window that differs, give openai-whisper's answer."""
    expected, windows = openai.transcribe(engines.openai, sound, **options)
    answer = engines.own.transcribe(sound, temperature=0.0, **options).to_dict()
    tally.windows += len(windows)
    if discrete(answer) == discrete(expected):
        check_numbers(name, answer, expected, tally)
    else:
        trace(engines, f"{name} {options}", windows, tally)
    return expected


def discrete(answer: dict[str, Any]) -> tuple[Any, ...]:
    """What must be equal: everything but the probabilities."""
    inexact = ("avg_logprob", "no_speech_prob")
    segments = [
        {key: value for key, value in segment.items() if key not in inexact}
        for segment in answer["segments"]
    ]
    return answer["text"], answer["language"], segments


def check_numbers(
    name: str, answer: dict[str, Any], expected: dict[str, Any], tally: Tally
) -> None:
    """Probabilities of equal tokens differ by float32 rounding only."""
    for own, reference in zip(answer["segments"], expected["segments"], strict=True):
        for key in ("avg_logprob", "no_speech_prob"):
            if abs(own[key] - reference[key]) > 1e-4:
                tally.failures.append(f"{name}: {key} {own[key]} instead of {reference[key]}")


def trace(engines: Engines, name: str, windows: list[Any], tally: Tally) -> None:
    """Which windows of a differing recording differ, and where."""
    both = openai.openai_logits(engines.openai), openai.own_logits(engines.own)
    traced = [openai.replay(engines.openai, *both, window) for window in windows]
    deciding = [openai.deciding_step(steps) for steps in traced]
    differing = [index for index, step in enumerate(deciding) if step.differs]
    if not differing:
        differing = [min(range(len(deciding)), key=lambda index: deciding[index].closeness)]
    for index in differing:
        step = deciding[index]
        line = f"{name}, window {index} of {len(windows)}: {step}"
        (tally.near_ties if step.near_tie else tally.failures).append(line)


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """The length of the difference over the length of the expected array.

    Not the largest difference: on base a single encoder value of openai-whisper's own is off its
    float64 result by up to 0.9e-4 of the largest value, so two exact engines differ by more.
    """
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def check_arrays(engines: Engines, sound: np.ndarray) -> None:
    """Encoder output and first-step logits of one window agree with openai-whisper's."""
    import torch
    import whisper

    mel = audio.log_mel_spectrogram(audio.pad_or_trim(sound), engines.own.dims.n_mels)
    expected_mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(sound), engines.own.dims.n_mels)
    assert np.abs(mel - expected_mel.numpy()).max() < RELATIVE_ERROR
    task = whisper.decoding.DecodingTask(engines.openai, whisper.DecodingOptions(fp16=False))
    tokens = list(task.initial_tokens)
    with torch.no_grad():
        expected = engines.openai.encoder(expected_mel[None])[0].numpy()
    assert relative_error(engines.own.encode(mel), expected) < RELATIVE_ERROR
    expected = openai.openai_logits(engines.openai)(expected_mel.numpy(), tokens)
    assert relative_error(openai.own_logits(engines.own)(mel, tokens), expected) < RELATIVE_ERROR


def test_arrays(tiny_en: Path) -> None:
    for recording in few_recordings()[:3]:
        check_arrays(load(tiny_en), samples(recording.path))


@pytest.mark.parametrize("mode", MODES)
def test_tokens(tiny_en: Path, mode: str) -> None:
    tally = Tally()
    for recording in few_recordings():
        compare(load(tiny_en), recording.id, samples(recording.path), tally, **MODES[mode])
    tally.check()


@pytest.mark.parametrize("name", OPTIONS)
def test_options(tiny_en: Path, name: str) -> None:
    recording = few_recordings()[-1]
    tally = Tally()
    compare(load(tiny_en), recording.id, samples(recording.path), tally, **OPTIONS[name])
    tally.check()


@pytest.mark.parametrize("sound", ["one sample", "silence", "noise"])
def test_no_speech(tiny_en: Path, sound: str) -> None:
    noise = np.random.default_rng(0).standard_normal(5 * audio.SAMPLE_RATE).astype(np.float32)
    sounds = {
        "one sample": np.full(1, 0.5, np.float32),
        "silence": np.zeros(5 * audio.SAMPLE_RATE, np.float32),
        "noise": 0.1 * noise,
    }
    tally = Tally()
    compare(load(tiny_en), sound, sounds[sound], tally)
    tally.check()


@pytest.mark.full
def test_every_recording_tiny_en(tiny_en: Path) -> None:
    tally = Tally()
    engines = load(tiny_en)
    for recording in every_recording():
        check_arrays(engines, samples(recording.path))
        for options in MODES.values():
            compare(engines, recording.id, samples(recording.path), tally, **options)
    for options in MODES.values():
        compare(engines, "concatenation", concatenation(every_recording()), tally, **options)
    tally.check()


@pytest.mark.full
def test_every_recording_base(base: Path) -> None:
    """The spoken language given and detected; translation where it is not English."""
    tally = Tally()
    engines = load(base)
    for recording in every_recording():
        sound = samples(recording.path)
        check_arrays(engines, sound)
        for options in MODES.values():
            answer = compare(engines, recording.id, sound, tally, **options)
            if answer["language"] != recording.language:
                compare(engines, recording.id, sound, tally, language=recording.language, **options)
        if recording.language != "en":
            compare(engines, recording.id, sound, tally, task="translate")
    for options in MODES.values():
        compare(engines, "concatenation", concatenation(every_recording()), tally, **options)
    tally.check()

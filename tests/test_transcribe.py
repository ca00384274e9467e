"""Recordings of any length: seek, segments and prompts against openai-whisper's transcribe().

The windows are scripted, or made by a model of no layers that both sides share, so that strange
ones come as often as usual ones. Tests with real weights skip where there are none (conftest.py).
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import project_speech, speech
from fake_models import FakeModel, as_openai, tiny_dims

import whisper_cy
from whisper_cy.audio import N_FRAMES, SAMPLE_RATE, log_mel_spectrogram
from whisper_cy.decoding import DecodingResult, WindowDecoder
from whisper_cy.errors import AudioError, Cancelled, OptionError
from whisper_cy.transcribe import (
    Progress,
    PromptHistory,
    TranscribeOptions,
    cut_window,
    segments,
    transcribe,
)

ENGLISH, MULTILINGUAL = 51864, 51865
BEGIN = 50363  # <|0.00|> of the English models
EOT = 50256


@pytest.fixture(scope="module")
def openai() -> Any:
    torch = pytest.importorskip("torch", reason="needs torch, on which openai-whisper runs")
    torch.set_num_threads(1)
    return pytest.importorskip("whisper", reason="needs openai-whisper to compare with")


@pytest.fixture(scope="module")
def model(tiny_en: Path) -> whisper_cy.Whisper:
    """tiny.en on one thread."""
    return whisper_cy.load_model(tiny_en, threads=1)


@pytest.fixture(scope="module")
def recording() -> Path:
    """A short recording of speech."""
    found = project_speech() or [item for item in speech() if item.path.suffix == ".wav"]
    if not found:
        pytest.skip("no recordings: neither in tests/data nor in WHISPER_CY_TEST_SPEECH")
    return min((item.path for item in found), key=lambda path: path.stat().st_size)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """(n,) at 16 kHz."""
    random = np.random.default_rng(seed)
    return random.standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1


# --- scripted windows ----------------------------------------------------------------------------


def random_window(random: np.random.Generator) -> list[int]:
    """Text and timestamps as the rules allow them, now and then as they do not."""
    tokens: list[int] = []
    moment = 0
    for _ in range(random.integers(0, 6)):
        moment += int(random.integers(1, 200))
        words = [int(token) for token in random.integers(0, 50000, random.integers(0, 5))]
        if random.random() < 0.1:
            words = [220]  # a space: a segment without text
        end = min(moment + int(random.integers(1, 200)), 1500)
        tokens += [BEGIN + min(moment, 1499), *words, BEGIN + end]
        moment = end
    kind = random.integers(0, 5)
    if kind == 0:
        tokens = [token for token in tokens if token < BEGIN]
    elif kind == 1 and tokens:
        tokens += [BEGIN + min(moment, 1500), *(int(t) for t in random.integers(0, 50000, 3))]
    elif kind == 2 and tokens:
        tokens.append(tokens[-1])
    elif kind == 3:
        tokens = tokens[:-1]
    return tokens


class Script:
    """The same windows for both sides; remembers the prompts it was asked with."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.prompts: list[list[int]] = []

    def next(self, prompt: Any) -> dict[str, Any]:
        random = np.random.default_rng([self.seed, len(self.prompts)])
        self.prompts.append(list(prompt or [])[-223:])
        return {
            "tokens": random_window(random),
            "language": "en",
            "avg_logprob": float(random.uniform(-2, 0)),
            "no_speech_prob": float(random.choice([0.1, 0.9])),
            "temperature": 0.0,
            "compression_ratio": 1.5,
        }


def scripted_openai(openai: Any, script: Script) -> Any:
    model = as_openai(FakeModel(tiny_dims(ENGLISH), 0))

    def decode(mel: Any, options: Any) -> Any:
        return openai.DecodingResult(audio_features=None, **script.next(options.prompt))

    model.decode = decode
    return model


@pytest.fixture
def scripted_own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: script -> a model whose windows are the script's."""

    def prepare(script: Script) -> FakeModel:
        def decode(self: Any, features: Any, prompt: Any, cancel: Any) -> DecodingResult:
            return DecodingResult(audio_features=features, **script.next(prompt))

        monkeypatch.setattr(WindowDecoder, "decode", decode)
        return FakeModel(tiny_dims(ENGLISH), 0)

    return prepare


OPTIONS: list[dict[str, Any]] = [
    {},
    {"condition_on_previous_text": False},
    {"initial_prompt": "Once upon a time"},
    {"initial_prompt": "Once upon a time", "condition_on_previous_text": False},
    {"initial_prompt": "Once upon a time", "carry_initial_prompt": True},
    {"initial_prompt": "word " * 223, "carry_initial_prompt": True},
    {"initial_prompt": "word " * 240, "carry_initial_prompt": True},
    {
        "initial_prompt": "Once",
        "carry_initial_prompt": True,
        "condition_on_previous_text": False,
    },
    {"no_speech_threshold": None},
    {"logprob_threshold": None},
    {"logprob_threshold": None, "no_speech_threshold": 0.95},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options)[:60])
def test_segments_and_prompts_are_openais(
    openai: Any, scripted_own: Any, options: dict[str, Any]
) -> None:
    for seed in range(12):
        sound = noise(np.random.default_rng(seed).uniform(0, 120), seed)
        theirs, ours = Script(seed), Script(seed)
        expected = openai.transcribe(
            scripted_openai(openai, theirs), sound, temperature=0.0, fp16=False, **options
        )
        answer = transcribe(scripted_own(ours), sound, **options).to_dict()
        assert answer == expected
        assert ours.prompts == theirs.prompts


@pytest.mark.parametrize("n_vocab", [ENGLISH, MULTILINGUAL])
@pytest.mark.parametrize("seconds", [0.004, 7.5, 30.0, 71.0])
def test_whole_recordings_are_openais(openai: Any, n_vocab: int, seconds: float) -> None:
    """Nothing scripted: language, rules, loop, prompts and seek together."""
    fake = FakeModel(tiny_dims(n_vocab), seed=round(seconds), end_after=250)
    sound = noise(seconds)
    theirs = as_openai(fake)
    theirs.encoder = lambda mel: openai.torch.from_numpy(fake.encode(mel[0].numpy()))[None]
    theirs.decode = lambda mel, options: openai.decode(theirs, mel, options)
    theirs.detect_language = lambda mel: openai.detect_language(theirs, mel)
    expected = openai.transcribe(theirs, sound, temperature=0.0, fp16=False)
    heard = fake.encoded
    fake.encoded = []
    answer = transcribe(fake, sound).to_dict()
    for segment, reference in zip(answer["segments"], expected["segments"], strict=True):
        for name in ("avg_logprob", "no_speech_prob"):
            assert segment.pop(name) == pytest.approx(reference.pop(name), rel=1e-4)
    assert answer == expected
    if n_vocab == MULTILINGUAL and seconds >= 30:
        del heard[1]  # what the language was detected from serves the first window too
    assert len(fake.encoded) == len(heard)
    for mel, reference in zip(fake.encoded, heard, strict=True):
        np.testing.assert_allclose(mel, reference, atol=1e-4)


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "pieces", "advance"),
    [
        ([], [(0.0, 20.0, [])], 2000),
        ([1, 2], [(0.0, 20.0, [1, 2])], 2000),
        ([BEGIN, 1, BEGIN + 50], [(0.0, 1.0, [BEGIN, 1, BEGIN + 50])], 2000),
        ([BEGIN, 1, BEGIN], [(0.0, 20.0, [BEGIN, 1, BEGIN])], 2000),
        (
            [BEGIN, 1, BEGIN + 50, BEGIN + 60, 2, BEGIN + 100],
            [(0.0, 1.0, [BEGIN, 1, BEGIN + 50]), (1.2, 2.0, [BEGIN + 60, 2, BEGIN + 100])],
            2000,
        ),
        (
            [BEGIN, 1, BEGIN + 50, BEGIN + 50, 2, 3],
            [(0.0, 1.0, [BEGIN, 1, BEGIN + 50])],
            100,
        ),
        ([BEGIN, BEGIN, 1], [(0.0, 0.0, [BEGIN])], 2000),
    ],
)
def test_cut_window(tokens: list[int], pieces: list[Any], advance: int) -> None:
    cut = cut_window(tokens, 2000, BEGIN, 2)
    assert [(start, end) for start, end, _ in cut.pieces] == [
        (pytest.approx(start), pytest.approx(end)) for start, end, _ in pieces
    ]
    assert [piece for _, _, piece in cut.pieces] == [piece for _, _, piece in pieces]
    assert cut.advance == advance


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("n_initial", [0, 5, 10, 14])
def test_prompt_history_is_the_tail_of_all_tokens(carry: bool, n_initial: int) -> None:
    """Against OpenAI's arithmetic on a list of all tokens; longest prompt: 10 tokens."""
    random = np.random.default_rng(n_initial)
    initial = list(range(n_initial))
    history = PromptHistory(initial, carry, longest=10)
    everything, reset_since = list(initial), 0
    for _ in range(60):
        said = [int(token) for token in random.integers(100, 999, random.integers(0, 6))]
        history.extend(said)
        everything += said
        if random.random() < 0.1:
            history.reset()
            reset_since = len(everything)
        if carry:
            rest = everything[max(n_initial, reset_since) :][-(10 - n_initial) :]
            expected = [*initial, *rest]
        else:
            expected = everything[reset_since:]
        assert history.prompt()[-10:] == expected[-10:]
        assert len(history.prompt()) <= 10 + 2 * n_initial


def test_windows_are_padded_with_zeros_in_mel_space() -> None:
    fake = FakeModel(tiny_dims(), 0, end_after=0)
    sound = noise(12)
    transcribe(fake, sound)
    whole = log_mel_spectrogram(sound, padding=30 * SAMPLE_RATE)
    np.testing.assert_array_equal(fake.encoded[0][:, :1200], whole[:, :1200])
    assert not fake.encoded[0][:, 1200:].any()
    assert fake.encoded[0].shape == (80, N_FRAMES)


def test_memory_does_not_grow_with_what_was_said(scripted_own: Any) -> None:
    peaks = []
    for seconds in (60, 420):
        sound = noise(seconds)
        fake = scripted_own(Script(1))
        fake.encode = lambda mel, check: mel  # FakeModel's own keeps what it was given
        stream = segments(fake, sound, language="en")
        tracemalloc.start()
        spoken = sum(1 for _ in stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert spoken > 15
    assert peaks[1] < peaks[0] + 500_000


# --- the stream ----------------------------------------------------------------------------------


def test_segments_come_one_by_one(scripted_own: Any) -> None:
    script = Script(2)
    stream = segments(scripted_own(script), noise(300))
    assert stream.language is None
    first = next(stream)
    assert (first.id, stream.language, stream.detected) == (0, "en", False)
    assert stream.duration == pytest.approx(300)
    assert len(script.prompts) < 5
    assert [segment.id for segment in stream][:3] == [1, 2, 3]
    whole = transcribe(scripted_own(Script(2)), noise(300))
    assert whole.segments[0] == first


def test_closing_the_stream_closes_the_recording(scripted_own: Any, recording: Path) -> None:
    with recording.open("rb") as file:
        stream = segments(scripted_own(Script(0)), file)
        next(stream)
        stream.close()
        assert next(stream, None) is None


def test_progress_rises_to_the_end(scripted_own: Any) -> None:
    seen: list[Progress] = []
    transcribe(scripted_own(Script(3)), noise(100), progress=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[0].done, seen[-1].done) == (0.0, 100.0)
    assert {p.total for p in seen} == {100.0}


def test_english_models_say_that_they_know_no_other_language(scripted_own: Any) -> None:
    for options in ({"language": "German"}, {"task": "translate"}):
        with pytest.warns(UserWarning, match="only English"):
            assert transcribe(scripted_own(Script(0)), noise(1), **options).language == "en"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transcribe(scripted_own(Script(0)), noise(1), language="English")


@pytest.mark.parametrize("set_before", [True, False])
def test_cancelled_from_another_thread(set_before: bool) -> None:
    cancel = threading.Event()
    fake = FakeModel(tiny_dims(), 0, end_after=9999)
    if set_before:
        cancel.set()
    else:
        threading.Timer(0.2, cancel.set).start()
    before = time.monotonic()
    with pytest.raises(Cancelled):
        transcribe(fake, noise(600), cancel=cancel)
    assert time.monotonic() - before < 5
    assert cancel.is_set()


# --- options -------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"lenguage": "en"}, "unknown option lenguage: did you mean language"),
    ({"colour": "red"}, "unknown option colour: the options are"),
    ({"prompt": "x"}, "initial_prompt"),
    ({"verbose": True}, "verbose.*segments"),
    ({"temperature": (0.0, 0.2)}, "temperature: fallback"),
    ({"temperature": 0.5}, "temperature: sampling"),
    ({"word_timestamps": True}, "word_timestamps"),
    ({"word_timestamps": 1}, "word_timestamps"),
    ({"hallucination_silence_threshold": 2.0}, "hallucination_silence_threshold"),
    ({"clip_timestamps": "1,5"}, "clip_timestamps"),
    ({"clip_timestamps": [1.0, 5.0]}, "clip_timestamps"),
    ({"no_speech_threshold": 1.5}, "no_speech_threshold"),
    ({"no_speech_threshold": "high"}, "no_speech_threshold"),
    ({"logprob_threshold": math.nan}, "logprob_threshold"),
    ({"compression_ratio_threshold": []}, "compression_ratio_threshold"),
    ({"condition_on_previous_text": None}, "condition_on_previous_text"),
    ({"carry_initial_prompt": "yes"}, "carry_initial_prompt"),
    ({"initial_prompt": [1, 2]}, "initial_prompt"),
    ({"append_punctuations": 3}, "append_punctuations"),
    ({"progress": 3}, "progress"),
    ({"cancel": True}, "cancel"),
    ({"beam_size": 5}, "beam_size"),
    ({"language": "klingon"}, "klingon"),
    ({"task": "sing"}, "task"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_wrong_option_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        segments(FakeModel(tiny_dims(), 0), "a file that is never opened", **options)


def test_openais_defaults_are_accepted() -> None:
    accepted = {
        "temperature": [0.0],
        "fp16": False,
        "best_of": None,
        "beam_size": None,
        "word_timestamps": False,
        "clip_timestamps": "0",
        "compression_ratio_threshold": None,
        "suppress_tokens": [-1],
        "hallucination_silence_threshold": None,
    }
    assert TranscribeOptions.from_keywords(accepted).decoding.temperature == 0.0


# --- sounds with nothing in them -----------------------------------------------------------------


def test_nothing_said_is_an_empty_transcript() -> None:
    for sound in (np.zeros(1, np.float32), noise(159 / SAMPLE_RATE)):
        answer = transcribe(FakeModel(tiny_dims(), 0), sound)
        assert answer.to_dict() == {"text": "", "segments": [], "language": "en"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_an_error(value: float) -> None:
    sound = noise(1)
    sound[100] = value
    with pytest.raises(AudioError):
        transcribe(FakeModel(tiny_dims(), 0), sound)


def test_a_missing_recording_is_an_error_at_the_first_segment() -> None:
    stream = segments(FakeModel(tiny_dims(), 0), "no-such-file.wav")
    with pytest.raises(AudioError, match=r"no-such-file\.wav"):
        next(stream)


# --- real weights --------------------------------------------------------------------------------


def test_calls_at_once_on_one_model_give_what_calls_in_turn_give(
    model: whisper_cy.Whisper, recording: Path
) -> None:
    sounds: list[Any] = [str(recording), noise(3), str(recording)]
    options = {"sample_len": 20}
    expected = [model.transcribe(sound, **options) for sound in sounds]
    answers: list[Any] = [None] * len(sounds)

    def call(index: int) -> None:
        answers[index] = model.transcribe(sounds[index], **options)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(len(sounds))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert answers == expected


def test_threads_change_nothing(model: whisper_cy.Whisper, tiny_en: Path, recording: Path) -> None:
    two = whisper_cy.load_model(tiny_en, threads=2)
    assert two.transcribe(recording) == model.transcribe(recording)


def test_segments_together_are_the_transcript(model: whisper_cy.Whisper, recording: Path) -> None:
    answer = model.transcribe(recording)
    assert tuple(model.segments(recording)) == answer.segments
    assert "".join(segment.text for segment in answer.segments) == answer.text
    assert answer.text.strip()
    assert "tiny" not in repr(model)
    assert "English-only" in repr(model)


def test_real_decoding_is_cancelled_between_tokens(model: whisper_cy.Whisper) -> None:
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    before = time.monotonic()
    with pytest.raises(Cancelled):
        for _ in range(100):
            model.transcribe(noise(29), cancel=cancel, suppress_tokens=[EOT])
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compute_type": "int8"}, "compute_type 'int8'"),
        ({"threads": 0}, "threads"),
        ({"threads": 1.5}, "threads"),
    ],
)
def test_load_model_names_the_wrong_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        whisper_cy.load_model("tiny.en", **arguments)


# --- the package ---------------------------------------------------------------------------------


def words_printed(code: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout.split()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, whisper_cy; print(*sys.modules)"
    loaded = set(words_printed(code))
    assert not loaded & {"numpy", "soundfile", "tqdm", "huggingface_hub", "whisper_cy.kernels"}


@pytest.mark.parametrize("first", ["whisper_cy", "whisper_cy.transcribe", "whisper_cy.api"])
def test_transcribe_is_the_function_whatever_was_imported(first: str) -> None:
    code = f"import {first}, whisper_cy; print(type(whisper_cy.transcribe).__name__)"
    assert words_printed(code) == ["function"]


def test_every_exported_name_is_there() -> None:
    for name in whisper_cy.__all__:
        assert getattr(whisper_cy, name) is not None
    with pytest.raises(AttributeError):
        whisper_cy.no_such_name  # noqa: B018

"""Decoding of one window: each logit rule and the whole loop against openai-whisper's own classes.

openai-whisper (with torch) is needed only by the tests that compare with it; they skip without it.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from fake_models import N_STATE, FakeModel, as_openai, tiny_dims

from whisper_cy import decoding
from whisper_cy.decoding import DecodingOptions, Greedy, Hypothesis, WindowDecoder
from whisper_cy.errors import Cancelled, OptionError
from whisper_cy.tokenizer import get_tokenizer

ENGLISH, MULTILINGUAL, LARGE_V3 = 51864, 51865, 51866
FEATURES = np.zeros((1500, N_STATE), np.float32)


@pytest.fixture(scope="module")
def openai() -> Any:
    torch = pytest.importorskip("torch", reason="needs torch, on which openai-whisper runs")
    torch.set_num_threads(1)
    return pytest.importorskip("whisper.decoding", reason="needs openai-whisper to compare with")


def random_history(random: np.random.Generator, tokenizer: Any) -> list[int]:
    """Tokens as a decoder could have picked them and as it could not."""
    kinds = random.choice(["text", "time"], size=random.integers(0, 12))
    times = np.sort(random.integers(0, 1501, len(kinds)))
    return [
        int(tokenizer.timestamp_begin + time if kind == "time" else random.integers(0, 50000))
        for kind, time in zip(kinds, times, strict=True)
    ]


def random_logits(random: np.random.Generator, tokenizer: Any, n_vocab: int) -> np.ndarray:
    """(n_vocab,), with the timestamps anywhere between never and always."""
    logits = random.standard_normal(n_vocab).astype(np.float32) * 3
    logits[tokenizer.timestamp_begin :] += np.float32(random.uniform(-12, 12))
    return logits


def rules_of(model: FakeModel, **options: Any) -> list[Any]:
    return WindowDecoder(model, DecodingOptions(**{"language": "en"} | options)).rules


# --- rules against openai-whisper ----------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [ENGLISH, MULTILINGUAL, LARGE_V3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_initial_timestamp": None},
        {"max_initial_timestamp": 0.5},
        {"suppress_tokens": "", "suppress_blank": False},
        {"suppress_tokens": [11, 50256, 13]},
        {"suppress_tokens": "-1,11"},
        {"without_timestamps": True},
    ],
    ids=str,
)
def test_rules_mask_what_openai_masks(openai: Any, n_vocab: int, options: dict[str, Any]) -> None:
    import torch

    model = FakeModel(tiny_dims(n_vocab), 0)
    own = rules_of(model, **options)
    task = openai.DecodingTask(as_openai(model), openai.DecodingOptions(language="en", **options))
    random = np.random.default_rng(n_vocab)
    for _ in range(60):
        sampled = random_history(random, task.tokenizer)
        logits = random_logits(random, task.tokenizer, n_vocab)
        expected = torch.from_numpy(logits.copy())[None]
        context = torch.tensor([[*task.initial_tokens, *sampled]])
        for rule in task.logit_filters:
            rule.apply(expected, context)
        for rule in own:
            rule(logits, sampled)
        np.testing.assert_array_equal(logits, expected[0].numpy(), err_msg=str(sampled))


# --- the loop against openai-whisper -------------------------------------------------------------


LOOP_OPTIONS: list[dict[str, Any]] = [
    {},
    {"without_timestamps": True},
    {"sample_len": 7},
    {"prompt": "What was said before"},
    {"prompt": list(range(1000, 1400))},
    {"prefix": "And so it begins"},
    {"prefix": "And so it begins again and again", "sample_len": 221},
    {"prompt": [5, 6, 7], "prefix": [8, 9], "without_timestamps": True},
    {"suppress_tokens": "", "suppress_blank": False, "max_initial_timestamp": None},
]


NEVER = 2000  # beyond the context: the text ends where it is full
CASES = [(options, n_vocab, 40) for options in LOOP_OPTIONS for n_vocab in (ENGLISH, MULTILINGUAL)]
CASES += [({}, ENGLISH, NEVER), ({"prompt": list(range(1000, 1400))}, MULTILINGUAL, NEVER)]


@pytest.mark.parametrize(
    ("options", "n_vocab", "end_after"), CASES, ids=lambda value: str(value)[:40]
)
def test_loop_gives_openais_result(
    openai: Any, options: dict[str, Any], n_vocab: int, end_after: int
) -> None:
    import torch

    model = FakeModel(tiny_dims(n_vocab), seed=len(options) + n_vocab, end_after=end_after)
    expected = openai.decode(
        as_openai(model),
        torch.from_numpy(FEATURES),
        openai.DecodingOptions(language="en", fp16=False, **options),
    )
    result = decoding.decode(model, FEATURES, language="en", **options)
    assert result.tokens == expected.tokens
    assert result.text == expected.text
    assert result.language == expected.language
    assert result.temperature == expected.temperature
    assert result.compression_ratio == expected.compression_ratio
    assert result.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert result.no_speech_prob == pytest.approx(expected.no_speech_prob, rel=1e-4)


@pytest.mark.parametrize("n_vocab", [MULTILINGUAL, LARGE_V3])
@pytest.mark.parametrize("seed", range(3))
def test_language_detection_gives_openais(openai: Any, n_vocab: int, seed: int) -> None:
    import torch

    model = FakeModel(tiny_dims(n_vocab), seed)
    features = torch.from_numpy(FEATURES)
    expected = openai.decode(as_openai(model), features, openai.DecodingOptions(fp16=False))
    _, probabilities = openai.detect_language(as_openai(model), features)
    result = decoding.decode(model, FEATURES)
    assert result.language == expected.language
    assert result.tokens == expected.tokens
    assert result.language_probs is not None
    assert result.language_probs.keys() == probabilities.keys()
    for code, probability in result.language_probs.items():
        assert probability == pytest.approx(probabilities[code], rel=1e-4)


# --- properties that need no reference -----------------------------------------------------------


def test_greedy_takes_the_first_of_equals_and_sums_its_logprob() -> None:
    logits = np.full((1, 10), -np.inf, np.float32)
    logits[0, [3, 7]] = 1.0
    hypothesis = Hypothesis()
    assert not Greedy(eot=9).update([hypothesis], logits)
    assert hypothesis.tokens == [3]
    assert hypothesis.sum_logprob == pytest.approx(math.log(0.5), abs=1e-6)


def test_timestamps_come_in_order_and_in_pairs() -> None:
    tokenizer = get_tokenizer(False)
    for seed in range(5):
        model = FakeModel(tiny_dims(), seed, end_after=150, lean=8)
        tokens = decoding.decode(model, FEATURES).tokens
        is_time = [token >= tokenizer.timestamp_begin for token in tokens]
        times = [token for token, time in zip(tokens, is_time, strict=True) if time]
        assert is_time[0]
        assert times == sorted(times)
        assert not any(all(is_time[i : i + 3]) for i in range(len(is_time) - 2))
        assert not set(tokens) & set(tokenizer.non_speech_tokens)


def test_the_context_is_never_overrun() -> None:
    """FakeModel.decode asserts it; a full prompt leaves less than sample_len tokens."""
    model = FakeModel(tiny_dims(), 0, end_after=9999)
    result = decoding.decode(model, FEATURES, prompt=[1] * 500, prefix=[2] * 200)
    assert len(result.tokens) == 448 + 1 - (224 + 1 + 200)


def test_cancelled_at_the_next_token() -> None:
    cancel = threading.Event()
    model = FakeModel(tiny_dims(), 0, end_after=9999)
    calls = 0
    logits = model.logits

    def count(states: np.ndarray, cache: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 5:
            cancel.set()
        return logits(states)

    model.logits = count  # type: ignore[method-assign]
    with pytest.raises(Cancelled, match="cancelled"):
        decoding.decode(model, FEATURES, cancel=cancel)
    assert calls == 5


WRONG = [
    ({"task": "lang_id"}, "task"),
    ({"language": "klingon"}, "klingon"),
    ({"language": 5}, "language"),
    ({"temperature": 0.2}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": None}, "temperature"),
    ({"sample_len": 0}, "sample_len"),
    ({"sample_len": 2.5}, "sample_len"),
    ({"best_of": 5}, "best_of"),
    ({"beam_size": 5}, "beam_size"),
    ({"patience": 1.0}, "patience"),
    ({"length_penalty": 0.5}, "length_penalty"),
    ({"fp16": True}, "fp16"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prefix": {"a": 1}}, "prefix"),
    ({"suppress_tokens": "a,b"}, "suppress_tokens"),
    ({"suppress_tokens": [-2]}, "suppress_tokens"),
    ({"suppress_tokens": 5}, "suppress_tokens"),
    ({"suppress_blank": "yes"}, "suppress_blank"),
    ({"without_timestamps": 1}, "without_timestamps"),
    ({"max_initial_timestamp": -1}, "max_initial_timestamp"),
    ({"max_initial_timestamp": math.nan}, "max_initial_timestamp"),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=str)
def test_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        DecodingOptions(**options)


@pytest.mark.parametrize(
    ("n_vocab", "options", "named"),
    [
        (ENGLISH, {"suppress_tokens": [51864]}, "suppress_tokens"),
        (ENGLISH, {"prefix": [1] * 300}, "prefix"),
        (ENGLISH, {"prefix": [51864]}, "prefix: 51864"),
        (ENGLISH, {"prompt": [-1]}, "prompt: -1"),
        (MULTILINGUAL, {"language": "yue"}, "yue"),
    ],
    ids=str,
)
def test_what_this_model_cannot_do_is_named(
    n_vocab: int, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(OptionError, match=named):
        decoding.decode(FakeModel(tiny_dims(n_vocab), 0), FEATURES, **options)


def test_an_english_model_detects_no_language() -> None:
    with pytest.raises(OptionError, match="only English"):
        decoding.detect_language(FakeModel(tiny_dims(), 0), FEATURES)

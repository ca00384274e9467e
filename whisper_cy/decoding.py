"""One window of audio features -> tokens, text and scores, by openai-whisper's rules.

prompt in one decoder pass -> [rules mask the logits -> the strategy picks -> one decoder step] ...
until <|endoftext|>, `sample_len` tokens or a full context.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from operator import index
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from . import kernels
from .errors import Cancelled, OptionError
from .tokenizer import Tokenizer, get_tokenizer, language_code

if TYPE_CHECKING:
    from .model import KVCache, Whisper

Array = npt.NDArray[np.float32]
Rule = Callable[[Array, Sequence[int]], None]

CHUNK_SECONDS = 30
NOT_YET = {
    "best_of": "sampling",
    "beam_size": "beam search",
    "patience": "beam search",
    "length_penalty": "beam search",
}


class CancelToken(Protocol):
    """What may stop a call from another thread; `threading.Event` is one."""

    def is_set(self) -> bool: ...


def check_cancelled(cancel: CancelToken | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled("the call was cancelled")


# --- options -------------------------------------------------------------------------------------


def require_bool(name: str, value: object) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name} is True or False, not {value!r}")


def require_number(name: str, value: object, low: float | None = None, high: float = 1) -> None:
    """A number, in low..high where low is given, or None."""
    if value is None:
        return
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if math.isnan(number) or (low is not None and not low <= number <= high):
        allowed = "a number" if low is None else f"a number in {low:g}..{high:g}"
        raise OptionError(f"{name} is {allowed} or None, not {value!r}")


def require_text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} is text or None, not {value!r}")


def is_token_list(value: object) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and all(
        isinstance(token, Integral) and not isinstance(token, bool) for token in value
    )


@dataclass(frozen=True)
class DecodingOptions:
    """OpenAI's names and defaults, but for `fp16`: arithmetic here is never in float16."""

    task: str = "transcribe"
    language: str | None = None  # None: detected
    temperature: float = 0.0
    sample_len: int | None = None  # tokens at most; None: half the text context
    best_of: int | None = None
    beam_size: int | None = None
    patience: float | None = None
    length_penalty: float | None = None
    prompt: str | Sequence[int] | None = None  # what was said before this window
    prefix: str | Sequence[int] | None = None  # how the text of this window begins
    suppress_tokens: str | Iterable[int] | None = "-1"  # -1: the non-speech symbols
    suppress_blank: bool = True
    without_timestamps: bool = False
    max_initial_timestamp: float | None = 1.0  # seconds; None or 0: no limit
    fp16: bool = False

    def __post_init__(self) -> None:
        self._refuse_what_is_not_there()
        if self.task not in ("transcribe", "translate"):
            raise OptionError(f"task is 'transcribe' or 'translate', not {self.task!r}")
        if self.sample_len is not None and not (
            isinstance(self.sample_len, Integral) and self.sample_len >= 1
        ):
            raise OptionError(f"sample_len is a number of tokens from 1, not {self.sample_len!r}")
        for name in ("prompt", "prefix"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str) or is_token_list(value)):
                raise OptionError(f"{name} is text, a list of token ids or None, not {value!r}")
        for name in ("suppress_blank", "without_timestamps"):
            require_bool(name, getattr(self, name))
        require_number("max_initial_timestamp", self.max_initial_timestamp, 0, CHUNK_SECONDS)
        require_text("language", self.language)
        if self.language is not None:
            object.__setattr__(self, "language", language_code(self.language))
        parse_suppress_tokens(self.suppress_tokens)

    def _refuse_what_is_not_there(self) -> None:
        for name, feature in NOT_YET.items():
            if getattr(self, name) is not None:
                raise OptionError(f"{name}: {feature} is not available yet; leave it at None")
        require_number("temperature", self.temperature, 0, 1)
        if self.temperature != 0:
            raise OptionError("temperature: sampling is not available yet; leave it at 0")
        if self.fp16:
            raise OptionError("fp16: the arithmetic here is float32; leave it at False")


def parse_suppress_tokens(value: str | Iterable[int] | None) -> tuple[int, ...]:
    """'-1,50257' or [-1, 50257] -> (-1, 50257); '' and None -> ()."""
    try:
        given = value.split(",") if isinstance(value, str) and value else value or ()
        tokens = tuple(int(t) if isinstance(t, str) else index(t) for t in given)
    except (TypeError, ValueError):
        tokens = (-2,)
    if any(token < -1 for token in tokens):
        raise OptionError(
            "suppress_tokens is a list of token ids, or text such as '-1' or '50257,11', "
            f"not {value!r}"
        )
    return tokens


# --- rules: each masks, in place, what may not come next -----------------------------------------


@dataclass(frozen=True)
class SuppressBlank:
    """A window does not begin with a space or with its end."""

    blanks: tuple[int, ...]

    def __call__(self, logits: Array, sampled: Sequence[int]) -> None:
        """logits (n_vocab,), changed in place; sampled: the tokens picked so far."""
        if not sampled:
            logits[list(self.blanks)] = -np.inf


class SuppressTokens:
    """Tokens that never come."""

    def __init__(self, tokens: Iterable[int]) -> None:
        self.tokens = np.array(sorted(set(tokens)), dtype=np.intp)

    def __call__(self, logits: Array, sampled: Sequence[int]) -> None:
        """logits (n_vocab,), changed in place."""
        logits[self.tokens] = -np.inf


@dataclass(frozen=True)
class TimestampRules:
    """Timestamps come in pairs, never go back, and win where together they outweigh any text."""

    timestamp_begin: int
    no_timestamps: int
    eot: int
    max_initial_index: int | None  # steps of 0.02 s

    def __call__(self, logits: Array, sampled: Sequence[int]) -> None:
        """logits (n_vocab,), changed in place; sampled: the tokens picked so far."""
        begin = self.timestamp_begin
        logits[self.no_timestamps] = -np.inf
        if sampled:
            self._keep_order(logits, sampled)
        else:
            logits[:begin] = -np.inf
            if self.max_initial_index is not None:
                logits[begin + self.max_initial_index + 1 :] = -np.inf
        _, _, any_timestamp = kernels.vocab_stats(logits, begin, logits.size)
        _, best_text, _ = kernels.vocab_stats(logits, 0, begin)
        if any_timestamp > best_text:
            logits[:begin] = -np.inf

    def _keep_order(self, logits: Array, sampled: Sequence[int]) -> None:
        begin = self.timestamp_begin
        closes_segment = False
        if sampled[-1] >= begin:
            closes_segment = len(sampled) > 1 and sampled[-2] < begin
            if closes_segment:
                logits[: self.eot] = -np.inf
            else:
                logits[begin:] = -np.inf
        last = next((token for token in reversed(sampled) if token >= begin), None)
        if last is not None:
            # Only the timestamp that opens a segment may repeat the one that closed the last:
            # a segment of no length would let the decoder go round for ever.
            logits[begin : last if closes_segment else last + 1] = -np.inf


# --- strategies ----------------------------------------------------------------------------------


@dataclass
class Hypothesis:
    """One row of the decoder's batch: the tokens picked so far and the sum of their logprobs."""

    tokens: list[int] = field(default_factory=list)
    sum_logprob: float = 0.0


class Greedy:
    """The best token of each row."""

    rows = 1

    def __init__(self, eot: int) -> None:
        self.eot = eot

    def update(self, hypotheses: Sequence[Hypothesis], logits: Array) -> bool:
        """logits (rows, n_vocab) after the rules; extends each row, True once all have ended."""
        for hypothesis, row in zip(hypotheses, logits, strict=True):
            token, best, logsumexp = kernels.vocab_stats(row, 0, row.size)
            hypothesis.tokens.append(token)
            hypothesis.sum_logprob += best - logsumexp
        return all(hypothesis.tokens[-1] == self.eot for hypothesis in hypotheses)

    def best(self, hypotheses: Sequence[Hypothesis]) -> Hypothesis:
        return hypotheses[0]


# --- one window ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecodingResult:
    """OpenAI's fields; `tokens` without the prompt and without <|endoftext|>."""

    audio_features: Array
    language: str
    language_probs: dict[str, float] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    avg_logprob: float = math.nan
    no_speech_prob: float = math.nan
    temperature: float = math.nan
    compression_ratio: float = math.nan


def compression_ratio(text: str) -> float:
    """Bytes of the text over its bytes after zlib: above about 2.4 it repeats itself."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


class WindowDecoder:
    """Decodes windows with the same options: all that does not change from one to the next."""

    def __init__(self, model: Whisper, options: DecodingOptions) -> None:
        """`options.language` must be given; raises OptionError for what this model cannot do."""
        self.model = model
        self.options = options
        self.language = options.language or "en"
        self.tokenizer = model_tokenizer(model, self.language, options.task)
        self.n_ctx = model.dims.n_text_ctx
        self.sample_len = options.sample_len or self.n_ctx // 2
        self.rules = self._rules()
        self.start_tokens = self._start_tokens()

    def _rules(self) -> list[Rule]:
        tokenizer, options = self.tokenizer, self.options
        rules: list[Rule] = []
        if options.suppress_blank:
            rules.append(SuppressBlank((*tokenizer.encode(" "), tokenizer.eot)))
        asked = parse_suppress_tokens(options.suppress_tokens)
        if asked:
            suppressed = suppressed_tokens(tokenizer, asked)
            self._check_tokens("suppress_tokens", suppressed)
            rules.append(SuppressTokens(suppressed))
        if not options.without_timestamps:
            rules.append(self._timestamp_rules(options.max_initial_timestamp))
        return rules

    def _timestamp_rules(self, max_initial_seconds: float | None) -> TimestampRules:
        step = CHUNK_SECONDS / self.model.dims.n_audio_ctx
        return TimestampRules(
            self.tokenizer.timestamp_begin,
            self.tokenizer.no_timestamps,
            self.tokenizer.eot,
            round(max_initial_seconds / step) if max_initial_seconds else None,
        )

    def _start_tokens(self) -> list[int]:
        """<|startoftranscript|> language task [<|notimestamps|>] and the prefix."""
        sequence = (
            self.tokenizer.sot_sequence_including_notimestamps
            if self.options.without_timestamps
            else self.tokenizer.sot_sequence
        )
        prefix = text_tokens(self.tokenizer, self.options.prefix)
        self._check_tokens("prefix", prefix)
        room = self.n_ctx // 2 - self.sample_len
        if room > 0:  # openai-whisper too keeps the whole prefix where sample_len leaves no room
            prefix = prefix[-room:]
        longest = self.n_ctx // 2 - len(sequence)
        if len(prefix) > longest:
            raise OptionError(f"prefix has {len(prefix)} tokens; it may have {longest} at most")
        return [*sequence, *prefix]

    def _check_tokens(self, name: str, tokens: Sequence[int]) -> None:
        n_vocab = self.model.dims.n_vocab
        for token in tokens:
            if not 0 <= token < n_vocab:
                raise OptionError(f"{name}: {token} is no token of this model (0..{n_vocab - 1})")

    def initial_tokens(self, prompt: str | Sequence[int] | None) -> list[int]:
        """The tokens the decoder starts from, the last 223 of the prompt at their head."""
        previous = text_tokens(self.tokenizer, prompt)
        self._check_tokens("prompt", previous)
        if not previous:
            return self.start_tokens
        return [self.tokenizer.sot_prev, *previous[-(self.n_ctx // 2 - 1) :], *self.start_tokens]

    def decode(
        self,
        features: Array,
        prompt: str | Sequence[int] | None = None,
        cancel: CancelToken | None = None,
    ) -> DecodingResult:
        """features (n_audio_ctx, n_audio_state) -> the window's tokens, text and scores."""
        initial = self.initial_tokens(prompt)
        strategy = Greedy(self.tokenizer.eot)
        cache = self.model.new_cache(features, rows=strategy.rows)
        check_cancelled(cancel)
        logits, no_speech_prob = self._read_prompt(initial, cache)
        hypothesis = self._sample(strategy, logits, cache, len(initial), cancel)
        return self._result(features, hypothesis, no_speech_prob)

    def _read_prompt(self, initial: list[int], cache: KVCache) -> tuple[Array, float]:
        """-> logits after the last token (1, n_vocab), the probability that nobody speaks."""
        states = self.model.decode(np.array([initial], dtype=np.int64), cache)
        sot = initial.index(self.tokenizer.sot)
        wanted = sorted({sot, len(initial) - 1})
        logits = self.model.logits(states[0, wanted], cache)
        _, _, logsumexp = kernels.vocab_stats(logits[0], 0, logits.shape[1])
        no_speech_prob = math.exp(float(logits[0, self.tokenizer.no_speech]) - logsumexp)
        return logits[-1:], no_speech_prob

    def _sample(
        self,
        strategy: Greedy,
        logits: Array,
        cache: KVCache,
        n_initial: int,
        cancel: CancelToken | None,
    ) -> Hypothesis:
        """logits (rows, n_vocab) after the prompt -> the strategy's choice."""
        hypotheses = [Hypothesis() for _ in range(strategy.rows)]
        # The last token of a full context is picked but not read: the cache holds n_ctx positions.
        longest = min(self.sample_len, self.n_ctx + 1 - n_initial)
        for length in range(1, longest + 1):
            for hypothesis, row in zip(hypotheses, logits, strict=True):
                for rule in self.rules:
                    rule(row, hypothesis.tokens)
            if strategy.update(hypotheses, logits) or length == longest:
                break
            check_cancelled(cancel)
            picked = np.array([[h.tokens[-1]] for h in hypotheses], dtype=np.int64)
            logits = self.model.logits(self.model.decode(picked, cache)[:, -1], cache)
        return strategy.best(hypotheses)

    def _result(
        self, features: Array, hypothesis: Hypothesis, no_speech_prob: float
    ) -> DecodingResult:
        tokens = hypothesis.tokens
        if tokens[-1] == self.tokenizer.eot:
            tokens = tokens[:-1]
        text = self.tokenizer.decode(tokens).strip()
        return DecodingResult(
            audio_features=features,
            language=self.language,
            tokens=tokens,
            text=text,
            avg_logprob=hypothesis.sum_logprob / (len(tokens) + 1),
            no_speech_prob=no_speech_prob,
            temperature=self.options.temperature,
            compression_ratio=compression_ratio(text),
        )


def model_tokenizer(
    model: Whisper, language: str | None = None, task: str | None = None
) -> Tokenizer:
    """The model's tokenizer, or OptionError where the model does not know the language."""
    return get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language=language, task=task
    )


def suppressed_tokens(tokenizer: Tokenizer, asked: Iterable[int]) -> list[int]:
    """The ids to suppress, ascending: those asked for, and the special ones that are no text."""
    tokens = set(asked)
    if -1 in tokens:
        tokens.remove(-1)
        tokens.update(tokenizer.non_speech_tokens)
    tokens.update((tokenizer.transcribe, tokenizer.translate, tokenizer.sot))
    tokens.update((tokenizer.sot_prev, tokenizer.sot_lm, tokenizer.no_speech))
    return sorted(tokens)


def text_tokens(tokenizer: Tokenizer, text: str | Sequence[int] | None) -> list[int]:
    """Text as it stands in the middle of speech: after one space. Tokens stay as they are."""
    if text is None or (isinstance(text, str) and not text):
        return []
    return tokenizer.encode(" " + text.strip()) if isinstance(text, str) else [int(t) for t in text]


def detect_language(model: Whisper, features: Array) -> tuple[str, dict[str, float]]:
    """features (n_audio_ctx, n_audio_state) -> the likeliest code, {code: probability}."""
    if not model.is_multilingual:
        raise OptionError("this model knows only English: it cannot detect a language")
    tokenizer = model_tokenizer(model)
    states = model.decode(np.array([[tokenizer.sot]], dtype=np.int64), model.new_cache(features))
    logits = model.logits(states[:, -1])[0, list(tokenizer.all_language_tokens)]
    weights = np.exp(logits.astype(np.float64) - float(logits.max()))
    probabilities = (weights / weights.sum()).tolist()
    by_code = dict(zip(tokenizer.all_language_codes, probabilities, strict=True))
    return max(by_code, key=by_code.__getitem__), by_code


def decode(
    model: Whisper,
    mel: Array,
    options: DecodingOptions | None = None,
    cancel: CancelToken | None = None,
    **changes: Any,
) -> DecodingResult:
    """mel (n_mels, 3000), or features (n_audio_ctx, n_audio_state) -> the window's result."""
    options = replace(options or DecodingOptions(), **changes)
    dims = model.dims
    encoded = mel.shape == (dims.n_audio_ctx, dims.n_audio_state)
    features = mel if encoded else model.encode(mel)
    probabilities = None
    if options.language is None and model.is_multilingual:
        code, probabilities = detect_language(model, features)
        options = replace(options, language=code)
    result = WindowDecoder(model, options).decode(features, options.prompt, cancel)
    return replace(result, language_probs=probabilities)

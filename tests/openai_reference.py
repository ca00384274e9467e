"""openai-whisper as the reference: its model on our weights, its windows, where a token differs.

A window that gives other tokens is replayed in both engines with the reference's own mel, prompt
and tokens (teacher forcing), OpenAI's logit rules are applied to the logits of both, and the first
step at which the two engines would choose differently is the difference. It is a near-tie where, in
both engines, a change of NEAR_TIE in the logits changes the choice: such a step depends on the
order of floating-point additions, and PyTorch decides it differently on another processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingTask

NEAR_TIE = 1e-3

Logits = Callable[[np.ndarray, list[int]], np.ndarray]


def build(checkpoint: Any) -> whisper.Whisper:
    """openai-whisper's model in float32 with the tensors of a whisper_cy.weights.Checkpoint."""
    model = whisper.Whisper(whisper.ModelDimensions(**asdict(checkpoint.dims)))
    tensors = {
        name: torch.from_numpy(np.array(tensor, dtype=np.float32))
        for name, tensor in checkpoint.tensors.items()
    }
    model.load_state_dict(tensors)
    return model.eval()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch on count threads, and as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Window:
    """What openai-whisper decoded at once: mel (n_mels, 3000), options with the prompt, tokens."""

    mel: np.ndarray
    options: DecodingOptions
    tokens: list[int]


def transcribe(
    model: whisper.Whisper, audio: np.ndarray, **options: Any
) -> tuple[dict[str, Any], list[Window]]:
    """openai-whisper's answer for audio (n,) at 16 kHz, and its windows in order."""
    windows: list[Window] = []

    def decode(mel: torch.Tensor, decoding: DecodingOptions) -> Any:
        result = whisper.decode(model, mel, decoding)
        windows.append(Window(mel.numpy().copy(), decoding, list(result.tokens)))
        return result

    original = model.decode
    model.decode = decode
    try:
        answer = whisper.transcribe(model, audio, fp16=False, temperature=0.0, **options)
    finally:
        model.decode = original
    return answer, windows


def openai_logits(model: whisper.Whisper) -> Logits:
    """A function: mel (n_mels, 3000), tokens (n) -> logits (n, n_vocab)."""

    def logits(mel: np.ndarray, tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            features = model.encoder(torch.from_numpy(mel)[None])
            return np.asarray(model.decoder(torch.tensor([tokens]), features)[0])

    return logits


def own_logits(model: Any) -> Logits:
    """The same function for a whisper_cy model."""

    def logits(mel: np.ndarray, tokens: list[int]) -> np.ndarray:
        cache = model.new_cache(model.encode(mel))
        return np.asarray(model.logits(model.decode(np.array([tokens]), cache)[0]))

    return logits


@dataclass(frozen=True)
class Choice:
    """One engine at one step: the two best tokens, their logits, and whether it is a near-tie."""

    tokens: tuple[int, int]
    logits: tuple[float, float]
    near_tie: bool

    @property
    def gap(self) -> float:
        return self.logits[0] - self.logits[1]

    def __str__(self) -> str:
        (first, second), (best, next_best) = self.tokens, self.logits
        return f"{first}: {best:.6f}, {second}: {next_best:.6f} (gap {self.gap:.2e})"


@dataclass(frozen=True)
class Step:
    """One step of one window in both engines."""

    index: int
    openai: Choice
    own: Choice

    @property
    def differs(self) -> bool:
        return self.openai.tokens[0] != self.own.tokens[0]

    @property
    def near_tie(self) -> bool:
        return self.openai.near_tie and self.own.near_tie

    @property
    def closeness(self) -> tuple[bool, float]:
        """Sorts near-ties first, then by the gap."""
        return not self.near_tie, self.own.gap

    def __str__(self) -> str:
        kind = "near-tie" if self.near_tie else "DIFFERENCE"
        return f"{kind} at step {self.index}: openai {self.openai} | whisper-cy {self.own}"


def replay(model: whisper.Whisper, openai: Logits, own: Logits, window: Window) -> list[Step]:
    """Every step of the window in both engines, the reference's tokens before it."""
    task = DecodingTask(model, window.options)
    start = len(task.initial_tokens)
    sequence = [*task.initial_tokens, *window.tokens][: task.n_ctx]
    rows = [logits(window.mel, sequence)[start - 1 :] for logits in (openai, own)]
    count = min(len(window.tokens) + 1, task.sample_len, len(rows[0]))
    contexts = [torch.tensor([sequence[: start + index]]) for index in range(count)]
    return [
        Step(index, *(_choice(task, row[index], context) for row in rows))
        for index, context in enumerate(contexts)
    ]


def deciding_step(steps: list[Step]) -> Step:
    """The first step at which the engines choose differently, or else the closest one."""
    differing = [step for step in steps if step.differs]
    return differing[0] if differing else min(steps, key=lambda step: step.closeness)


def _choice(task: DecodingTask, logits: np.ndarray, context: torch.Tensor) -> Choice:
    """The two best tokens after OpenAI's rules, for logits (n_vocab,) and tokens (1, n) so far."""
    best = _allowed(task, logits, context, 0.0).topk(2)
    first, second = best.values[0].tolist()
    nudged = {
        int(_allowed(task, logits, context, nudge).argmax()) for nudge in (-NEAR_TIE, NEAR_TIE)
    }
    tokens = best.indices[0].tolist()
    return Choice(
        (tokens[0], tokens[1]), (first, second), first - second < NEAR_TIE or len(nudged) > 1
    )


def _allowed(
    task: DecodingTask, logits: np.ndarray, context: torch.Tensor, nudge: float
) -> torch.Tensor:
    """logits (1, n_vocab) after the rules, the timestamps raised by nudge before them.

    The nudge shows a tie in the rule that weighs all timestamps together against the best text.
    """
    row = torch.from_numpy(np.array(logits))[None]
    row[:, task.tokenizer.timestamp_begin :] += nudge
    for rule in task.logit_filters:
        rule.apply(row, context)
    return row

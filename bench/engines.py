"""The engines under bench_transcribe.py, each behind the same four calls.

Loading one gives an Engine: `clip` and `long` take samples (n,) float32 at 16 kHz and give text,
`encoder` gives the seconds of one encoder pass over the clip and `token` the seconds a token takes.
The clip is decoded greedily without timestamps, thresholds or fallback, the long file in each
engine's timestamped mode, greedily, with its own thresholds, no window conditioned on the text
before it: without fallback that starts loops, and OpenVINO never does it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Transcribe = Callable[[np.ndarray], str]
Seconds = Callable[[], float]

CLIP: dict[str, Any] = {
    "temperature": 0.0,
    "without_timestamps": True,
    "condition_on_previous_text": False,
    "no_speech_threshold": None,
    "compression_ratio_threshold": None,
}
LONG: dict[str, Any] = {"temperature": 0.0, "condition_on_previous_text": False}


class MissingError(Exception):
    """The engine or its form of the weights is missing; the message says which."""


@dataclass(frozen=True)
class Engine:
    """A loaded model."""

    clip: Transcribe
    long: Transcribe
    encoder: Seconds
    token: Seconds


@dataclass(frozen=True)
class Job:
    """What to load: weights, the folder of one model; clip, what encoder and token run on."""

    weights: Path
    clip: np.ndarray
    threads: int
    stages: dict[str, float]  # filled by the loader: import, load (s)

    @property
    def multilingual(self) -> bool:
        return not self.weights.name.endswith(".en")

    def file(self, name: str) -> Path:
        path = self.weights / name
        if not path.exists():
            raise MissingError(f"no {path}")
        return path

    def stage(self, name: str, call: Callable[[], Any]) -> Any:
        """The answer of call, its seconds under name."""
        start = time.perf_counter()
        answer = call()
        self.stages[name] = time.perf_counter() - start
        return answer


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seconds_a_token(decode: Callable[[], int]) -> float:
    """decode gives the number of tokens of the clip, <|endoftext|> not counted."""
    start = time.perf_counter()
    count = decode()
    return (time.perf_counter() - start) / (count + 1)


def whisper_cy(job: Job) -> Engine:
    def modules() -> Any:
        import whisper_cy
        import whisper_cy.api  # the package itself loads its modules on first use

        return whisper_cy

    package = job.stage("import", modules)
    model = job.stage("load", lambda: package.load_model(job.file("hf"), threads=job.threads))
    from whisper_cy import audio
    from whisper_cy.decoding import DecodingOptions, WindowDecoder

    mel = audio.log_mel_spectrogram(audio.pad_or_trim(job.clip), model.dims.n_mels)
    features = model.encode(mel)
    options = DecodingOptions(language="en", without_timestamps=True)
    decoder = WindowDecoder(model, options)
    clip = {**CLIP, "logprob_threshold": None}
    return Engine(
        clip=lambda samples: model.transcribe(samples, language="en", **clip).text,
        long=lambda samples: model.transcribe(samples, language="en", **LONG).text,
        encoder=lambda: seconds(lambda: model.encode(mel)),
        token=lambda: seconds_a_token(lambda: len(decoder.decode(features).tokens)),
    )


def openai_whisper(job: Job) -> Engine:
    def modules() -> Any:
        import torch
        import whisper

        torch.set_num_threads(job.threads)
        return torch, whisper

    torch, whisper = job.stage("import", modules)
    model = job.stage("load", lambda: _openai_model(whisper, torch, job))
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(job.clip), model.dims.n_mels)[None]
    options = whisper.DecodingOptions(fp16=False, language="en", without_timestamps=True)

    def encode() -> Any:
        with torch.inference_mode():
            return model.encoder(mel)

    features = encode()
    common = {"fp16": False, "language": "en"}
    clip = {**CLIP, **common, "logprob_threshold": None}
    return Engine(
        clip=lambda samples: model.transcribe(samples, **clip)["text"],
        long=lambda samples: model.transcribe(samples, **LONG, **common)["text"],
        encoder=lambda: seconds(encode),
        token=lambda: seconds_a_token(
            lambda: len(whisper.decode(model, features, options)[0].tokens)
        ),
    )


def _openai_model(whisper: Any, torch: Any, job: Job) -> Any:
    """From openai.pt, or else with the tensors whisper-cy reads (its load time then says less)."""
    checkpoint = job.weights / "openai.pt"
    if checkpoint.exists():
        return whisper.load_model(str(checkpoint), device="cpu")
    from dataclasses import asdict

    from whisper_cy.weights import load_checkpoint

    own = load_checkpoint(job.file("hf"))
    model = whisper.Whisper(whisper.ModelDimensions(**asdict(own.dims)))
    model.load_state_dict(
        {name: torch.from_numpy(np.array(t, np.float32)) for name, t in own.tensors.items()}
    )
    return model.eval()


def faster_whisper(compute_type: str) -> Callable[[Job], Engine]:
    def load(job: Job) -> Engine:
        def modules() -> Any:
            import faster_whisper

            return faster_whisper

        package = job.stage("import", modules)
        folder = str(job.file("ct2"))
        model = job.stage(
            "load",
            lambda: package.WhisperModel(
                folder, device="cpu", compute_type=compute_type, cpu_threads=job.threads
            ),
        )
        mel = _padded(model.feature_extractor(job.clip))
        features = model.encode(mel)
        prompt = [50258, 50259, 50359, 50363] if job.multilingual else [50257, 50362]
        common = {"beam_size": 1, "best_of": 1, "language": "en"}
        clip = {**CLIP, **common, "log_prob_threshold": None}
        long = {**common, **LONG}

        def tokens() -> int:
            answer = model.model.generate(features, [prompt], beam_size=1)
            return len(answer[0].sequences_ids[0])

        return Engine(
            clip=lambda samples: _joined(model.transcribe(samples, **clip)[0]),
            long=lambda samples: _joined(model.transcribe(samples, **long)[0]),
            encoder=lambda: seconds(lambda: model.encode(mel)),
            token=lambda: seconds_a_token(tokens),
        )

    return load


def _padded(mel: np.ndarray) -> np.ndarray:
    """(n_mels, n) -> (n_mels, 3000)"""
    return np.pad(mel[:, :3000], ((0, 0), (0, max(0, 3000 - mel.shape[1]))))


def _joined(segments: Any) -> str:
    return "".join(segment.text for segment in segments)


def whisper_cpp(precision: str) -> Callable[[Job], Engine]:
    def load(job: Job) -> Engine:
        def modules() -> Any:
            import _pywhispercpp
            from pywhispercpp.model import Model

            return _pywhispercpp, Model

        library, model_class = job.stage("import", modules)
        path = str(job.file(f"ggml-{precision}.bin"))
        model = job.stage(
            "load",
            lambda: model_class(
                path, n_threads=job.threads, print_progress=False, print_realtime=False
            ),
        )
        common = {"language": "en", "temperature": 0.0, "greedy": {"best_of": 1}}
        clip = {
            **common,
            **{"temperature_inc": 0.0, "no_context": True, "no_speech_thold": 1.0},
            "n_max_text_ctx": 0,  # no_context alone keeps the prompt between windows
            **{"suppress_nst": True, "no_timestamps": True, "single_segment": True},
        }
        long = {**common, "temperature_inc": 0.0, "n_max_text_ctx": 0, "suppress_nst": True}

        def run(samples: np.ndarray, options: dict[str, Any]) -> str:
            return _joined(model.transcribe(samples, **options))

        def stage(name: str) -> float:
            library.whisper_reset_timings(model._ctx)
            run(job.clip, clip)
            return _whisper_cpp_stage(model, name)

        return Engine(
            clip=lambda samples: run(samples, clip),
            long=lambda samples: run(samples, long),
            encoder=lambda: stage("encode"),
            token=lambda: stage("decode"),
        )

    return load


def _whisper_cpp_stage(model: Any, name: str) -> float:
    """Seconds a run of one stage, from the table the library prints to standard error."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as table:
        os.dup2(table.fileno(), 2)
        try:
            model.print_timings()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        table.seek(0)
        text = table.read().decode(errors="replace")
    found = re.search(name + r" time =\s*([\d.]+) ms /\s*(\d+) runs", text)
    return float(found[1]) / 1e3 / int(found[2]) if found else float("nan")


def openvino(folder: str, precision: str | None) -> Callable[[Job], Engine]:
    def load(job: Job) -> Engine:
        def modules() -> Any:
            import openvino_genai

            return openvino_genai

        package = job.stage("import", modules)
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads}
        if precision:
            properties["INFERENCE_PRECISION_HINT"] = precision
        path = str(job.file(folder))
        pipeline = job.stage("load", lambda: package.WhisperPipeline(path, "CPU", **properties))
        options: dict[str, Any] = {"max_new_tokens": 440}
        if job.multilingual:
            options |= {"language": "<|en|>", "task": "transcribe"}

        def generate(samples: np.ndarray, timestamps: bool) -> Any:
            return pipeline.generate(samples, return_timestamps=timestamps, **options)

        def encoder() -> float:
            metrics = generate(job.clip, False).perf_metrics
            return float(metrics.get_encode_inference_duration().mean) / 1e3

        def token() -> float:
            metrics = generate(job.clip, False).perf_metrics
            return float(metrics.get_decode_inference_duration().mean) / 1e3

        return Engine(
            clip=lambda samples: generate(samples, False).texts[0],
            long=lambda samples: generate(samples, True).texts[0],
            encoder=encoder,
            token=token,
        )

    return load


ENGINES: dict[str, Callable[[Job], Engine]] = {
    "whisper-cy": whisper_cy,
    "openai-whisper": openai_whisper,
    "faster-whisper-int8": faster_whisper("int8"),
    "faster-whisper-f32": faster_whisper("float32"),
    "whisper.cpp-q8_0": whisper_cpp("q8_0"),
    "whisper.cpp-f16": whisper_cpp("f16"),
    "openvino-f32": openvino("openvino", "f32"),
    "openvino-default": openvino("openvino", None),
    "openvino-int8": openvino("openvino-int8", None),
}

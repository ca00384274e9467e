"""Each kernel's rate as a share of a peak measured in the same run.

    python bench/bench_kernels.py [--threads 1 2] [--isa avx2] [--rounds 25]

Needs a C compiler (for bench/peak.c). Arithmetic is held against the float32 multiply-add peak,
decoding against the rate at which the same threads read memory of the same size. A sample during
which a thread was switched out (getrusage's involuntary switches) counts only where none ran
undisturbed; such a row is marked *. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from whisper_cy import audio, kernels
from whisper_cy.threads import default_threads

FLAGS = {
    "baseline": ["-march=x86-64-v2"],
    "avx2": ["-march=x86-64-v3"],
}
AVX512_FLAGS = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
MODELS = {"tiny": (384, 6), "base": (512, 8)}
RANDOM = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


class Bench:
    """Times functions for one level and thread count against peaks measured beside them."""

    def __init__(self, isa: str, threads: int, rounds: int) -> None:
        self.isa, self.threads, self.rounds = isa, threads, rounds
        self.peak = load_peak(isa)
        self.sink = ctypes.c_float()
        self.mark = ""  # of the last measurement

    def best(self, work: Callable[[], object], rounds: int | None = None) -> tuple[float, float]:
        """(least, median) seconds over the undisturbed samples, over all where there is none."""
        rounds = rounds or self.rounds
        work()
        samples: list[float] = []
        disturbed: list[float] = []
        deadline = time.perf_counter() + 5
        while len(samples) < rounds and time.perf_counter() < deadline:
            switched = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
            start = time.perf_counter()
            work()
            took = time.perf_counter() - start
            clean = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switched
            (samples if clean else disturbed).append(took)
        self.mark = "" if samples else " *"
        samples = samples or disturbed
        return min(samples), statistics.median(samples)

    def arithmetic_peak(self) -> float:
        """Float32 operations a second."""
        operations = self.peak.multiply_adds(100, self.threads, ctypes.byref(self.sink))
        least, _ = self.best(
            lambda: self.peak.multiply_adds(100_000, self.threads, ctypes.byref(self.sink)),
            max(50, self.rounds),
        )
        return operations * 1000 / least

    def read_peak(self, size: int) -> float:
        """Bytes a second, reading `size` bytes over and over."""
        x = np.ones(max(1, size // 4096) * 1024, np.float32)
        x = np.lib.stride_tricks.as_strided(x[(-x.ctypes.data // 4) % 16 :], (len(x) - 1024,), (4,))
        data = x.ctypes.data_as(ctypes.c_void_p)
        read = lambda: self.peak.read_all(data, len(x), self.threads, ctypes.byref(self.sink))  # noqa: E731
        return len(x) * 4 / self.best(read)[0]

    def row(
        self, name: str, work: Callable[[], object], amount: float, peak: float, unit: str
    ) -> None:
        """A row for work of `amount` operations or bytes, held against `peak` of them a second."""
        least, median = self.best(work)
        rate = amount / least
        self.print_row(
            name,
            least,
            median,
            f"{rate / 1e9:.1f} {unit}",
            f"{peak / 1e9:.1f}",
            f"{rate / peak:.0%}",
        )

    def time_row(self, name: str, work: Callable[[], object]) -> None:
        """A row for work that has no peak to be held against."""
        self.print_row(name, *self.best(work), "", "", "")

    def print_row(self, name: str, least: float, median: float, *rates: str) -> None:
        name += self.mark
        times = f"{least * 1e3:.3f} | {median * 1e3:.3f}"
        print(
            f"| {name} | {self.isa} | {self.threads} | {times} | {' | '.join(rates)} |", flush=True
        )


def load_peak(isa: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.c")
        flags = FLAGS.get(isa, AVX512_FLAGS)
        subprocess.run(
            [
                os.environ.get("CC", "cc"),
                "-O3",
                "-fopenmp",
                "-shared",
                "-fPIC",
                *flags,
                source,
                "-o",
                library,
            ],
            check=True,
        )
        peak = ctypes.CDLL(str(library))
    peak.multiply_adds.restype = ctypes.c_double
    peak.multiply_adds.argtypes = [ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    peak.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    return peak


def bench_gemm(bench: Bench, peak: float) -> None:
    for d, _ in MODELS.values():
        for k, n in ((d, d), (d, 3 * d), (d, 4 * d), (4 * d, d)):
            x, out = random(1500, k), np.empty((1500, n), np.float32)
            weight = kernels.Matrix(random(n, k).astype(np.float16))
            bench.row(
                f"GEMM 1500 x {k} x {n}, half weights",
                lambda x=x, w=weight, out=out: kernels.linear(x, w, out=out, threads=bench.threads),
                2.0 * 1500 * k * n,
                peak,
                "GFLOP/s",
            )


def bench_attention(bench: Bench, peak: float) -> None:
    for name, (d, n_head) in MODELS.items():
        q, cache = random(1500, d), kernels.HeadCache(n_head, 1500)
        cache.store(random(1500, d), random(1500, d), 0)
        bench.row(
            f"encoder self-attention, {name}",
            lambda q=q, cache=cache: kernels.attention(q, cache, 1500, threads=bench.threads),
            4.0 * 1500 * 1500 * d,
            peak,
            "GFLOP/s",
        )
        size = 2 * 1504 * d * 4
        bench.row(
            f"cross-attention, one query, {name}",
            lambda q=q[:1], cache=cache: kernels.attention(q, cache, 1500, threads=bench.threads),
            float(size),
            bench.read_peak(size),
            "GB/s",
        )


def bench_decoding(bench: Bench) -> None:
    for k, n in ((384, 384), (384, 1536), (384, 51865), (512, 51865)):
        copies = max(1, 40_000_000 // (2 * k * n))  # as cold as a model's other layers leave it
        weights = [kernels.Matrix(random(n, k).astype(np.float16)) for _ in range(copies)]
        x, out = random(1, k), np.empty((1, n), np.float32)

        def sweep(weights=weights, x=x, out=out):
            for weight in weights:
                kernels.linear(x, weight, out=out, threads=bench.threads)

        size = 2 * k * n * copies
        peak = bench.read_peak(size)
        bench.row(f"GEMV {k} x {n}, half weights", sweep, float(size), peak, "GB/s")


def bench_front_end(bench: Bench) -> None:
    samples, logits = random(480_000), random(51865)
    threads = bench.threads
    bench.time_row("log-mel of 30 s", lambda: audio.log_mel_spectrogram(samples, threads=threads))
    if threads == 1:
        bench.time_row(
            "argmax and log-sum-exp of 51865", lambda: kernels.vocab_stats(logits, 0, 51865)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[default_threads()])
    parser.add_argument("--isa", default=kernels.isa(), choices=kernels.available_isas())
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    kernels.use_isa(arguments.isa)
    print("| kernel | level | threads | least ms | median ms | rate at least | peak | share |")
    print("|---|---|---|---|---|---|---|---|")
    for threads in arguments.threads:
        bench = Bench(arguments.isa, threads, arguments.rounds)
        peak = bench.arithmetic_peak()
        bench_gemm(bench, peak)
        bench_attention(bench, peak)
        bench_decoding(bench)
        bench_front_end(bench)


if __name__ == "__main__":
    main()

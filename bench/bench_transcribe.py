"""whisper-cy beside its peers: same weights, same samples, same cores, greedy decoding, one run.

    python bench/bench_transcribe.py --models MODELS --model tiny.en --clip CLIP --long LONG

prints a Markdown section for bench/RESULTS.md. Each engine and round is a process of its own, the
engines take turns, and a process during which others used more than OTHERS of a core is repeated.
An engine not installed, or without its form of the weights, is left out, saying so.

MODELS/tiny.en/ holds the same weights in the form each engine reads (pip's names in brackets):

    hf/              whisper-cy export tiny.en MODELS/tiny.en/hf
    openai.pt        optional [openai-whisper]; without it the model is built in memory from hf/
    ct2/             ct2-transformers-converter --model hf --output_dir ct2
                     --copy_files tokenizer.json preprocessor_config.json [faster-whisper
                     transformers torch]
    ggml-f16.bin     whisper.cpp's models/convert-h5-to-ggml.py [pywhispercpp]
    ggml-q8_0.bin    whisper.cpp's quantize ggml-f16.bin ggml-q8_0.bin q8_0
    openvino/        optimum-cli export openvino --model hf --weight-format fp32 openvino
                     --task automatic-speech-recognition-with-past [openvino-genai; the
                     export in an environment of its own with optimum[openvino]]
    openvino-int8/   the same with --weight-format int8

Clip: greedy text without timestamps, thresholds and conditioning. Long: the engine's timestamped
mode with its own thresholds, no window conditioned on the text before it, its number of words
beside the time, because an engine that stops early is fast. Samples are in memory; log-mel is part
of every time. x columns: the engine's median over whisper-cy's. Agreement: one less the word error
rate against openai-whisper's text.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from engines import ENGINES, Job, MissingError

OWN, STANDARD = "whisper-cy", "openai-whisper"
OTHERS = 0.15  # cores used by other processes above which a measurement is repeated
RESULT = "result: "
LEVELS = {
    "avx2": {
        "WHISPER_CY_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "CT2_FORCE_CPU_ISA": "AVX2",
    },
    "avx512vnni": {
        "WHISPER_CY_ISA": "avx512vnni",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "CT2_FORCE_CPU_ISA": "AVX512",
    },
}


# --- one engine, one round: a process of its own -------------------------------------------------


def work(arguments: argparse.Namespace) -> None:
    """Measure one engine and print what was found as one JSON line."""
    if arguments.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clip = np.load(arguments.clip)
    job = Job(Path(arguments.models) / arguments.model, clip, arguments.threads, {})
    try:
        engine = ENGINES[arguments.engine](job)
    except (ImportError, MissingError) as error:
        print(RESULT + json.dumps({"missing": str(error)}), flush=True)
        return
    before = machine_use()
    found: dict[str, Any] = {f"{stage}_s": [value] for stage, value in job.stages.items()}
    for _ in range(2):
        engine.clip(clip)
    found["clip_s"], found["clip_text"] = timed(engine.clip, clip, 3)
    found["encoder_s"] = [engine.encoder() for _ in range(3)]
    found["token_s"] = [engine.token() for _ in range(3)]
    found["clip_mb"] = peak_memory()
    if arguments.long:
        found["long_s"], found["long_text"] = timed(engine.long, np.load(arguments.long), 1)
        found["long_mb"] = peak_memory()
    found["others"], found["switches"] = others_since(before)
    if arguments.engine == OWN:
        from whisper_cy import kernels

        found["isa"] = kernels.isa()
    print("\n" + RESULT + json.dumps(found), flush=True)
    os._exit(0)  # some engines crash or hang in their destructors


def timed(call: Any, samples: np.ndarray, count: int) -> tuple[list[float], str]:
    times, text = [], ""
    for _ in range(count):
        start = time.perf_counter()
        text = call(samples)
        times.append(time.perf_counter() - start)
    return times, text


def peak_memory() -> float:
    """MB"""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent held when it started this process
        kilobytes = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        if kilobytes:
            return int(kilobytes[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def machine_use() -> tuple[float, float, float, int]:
    """Seconds: of all cores busy, of this process, of the clock; and its forced switches."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    own = used.ru_utime + used.ru_stime
    busy = own
    stat = Path("/proc/stat")
    if stat.exists():
        user, nice, system, _idle, _wait, irq, softirq, steal = map(
            int, stat.read_text().split()[1:9]
        )
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy, own, time.perf_counter(), used.ru_nivcsw


def others_since(before: tuple[float, float, float, int]) -> tuple[float, int]:
    """Cores other processes used since, and this process's forced context switches."""
    busy, own, clock, switches = (b - a for a, b in zip(before, machine_use(), strict=True))
    return max(0.0, busy - own) / clock, int(switches)


# --- the rounds ----------------------------------------------------------------------------------


@dataclass
class Row:
    """All rounds of one engine: every timing under its name, and what else a round gives."""

    values: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    noisy: int = 0
    isa: str = ""

    def add(self, found: dict[str, Any]) -> None:
        for name, value in found.items():
            if name.endswith("_s"):
                self.values.setdefault(name, []).extend(value)
            elif name.endswith("_mb"):
                self.values.setdefault(name, []).append(value)
            elif name.endswith("_text"):
                self.texts[name] = value
        self.noisy += found["others"] > OTHERS
        self.isa = found.get("isa", "")

    def median(self, name: str) -> float | None:
        values = self.values.get(name)
        return statistics.median(values) if values else None


def run_rounds(
    arguments: argparse.Namespace, clip: Path, long: Path | None
) -> tuple[dict[str, Row], dict[str, str]]:
    """-> the rows of the engines that ran, why the others did not."""
    rows: dict[str, Row] = {}
    left_out: dict[str, str] = {}
    for number in range(arguments.rounds):
        for name in arguments.engines:
            if name in left_out:
                continue
            audio = long if number < arguments.long_rounds else None
            found = quiet_run(arguments, name, clip, audio)
            if "missing" in found:
                left_out[name] = found["missing"]
                print(f"{name}: left out, {found['missing']}", file=sys.stderr)
            else:
                rows.setdefault(name, Row()).add(found)
                report(number, name, found)
    return rows, left_out


def report(number: int, name: str, found: dict[str, Any]) -> None:
    print(
        f"round {number + 1} {name}: clip {min(found['clip_s']):.3f} s, others "
        f"{found['others']:.2f} cores, {found['switches']} forced switches",
        file=sys.stderr,
    )


def quiet_run(
    arguments: argparse.Namespace, engine: str, clip: Path, long: Path | None
) -> dict[str, Any]:
    """What the quietest of up to --attempts processes found."""
    best: dict[str, Any] = {}
    for _ in range(arguments.attempts):
        found = run_process(arguments, engine, clip, long)
        if "missing" in found:
            return found
        if not best or found["others"] < best["others"]:
            best = found
        if best["others"] <= OTHERS:
            break
    return best


def run_process(
    arguments: argparse.Namespace, engine: str, clip: Path, long: Path | None
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--engine", engine, "--clip", str(clip)]
    command += ["--models", arguments.models, "--model", arguments.model]
    command += ["--threads", str(arguments.threads)]
    if long is not None:
        command += ["--long", str(long)]
    try:
        done = subprocess.run(
            command, env=environment(arguments), capture_output=True, text=True, timeout=900
        )
    except subprocess.TimeoutExpired:
        return {"missing": "no answer within 900 s"}
    for line in done.stdout.splitlines():
        if line.startswith(RESULT):
            return dict(json.loads(line[len(RESULT) :]))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"missing": f"failed with exit status {done.returncode}: {last[:200]}"}


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Threads for every library, no network, and the level the engines are held to."""
    libraries = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    threads = {f"{library}_NUM_THREADS": str(arguments.threads) for library in libraries}
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    return {**os.environ, **threads, **offline, **LEVELS.get(arguments.isa, {})}


# --- the table -----------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.sub(r"[^\w\s']", " ", text.lower()).split()


def word_error_rate(text: str, reference: str) -> float:
    """Edits of words that turn reference into text, as a share of the reference's words."""
    expected, given = words(reference), words(text)
    costs = list(range(len(given) + 1))
    for row, word in enumerate(expected, 1):
        previous, costs[0] = costs[0], row
        for column, other in enumerate(given, 1):
            cost = min(costs[column] + 1, costs[column - 1] + 1, previous + (word != other))
            previous, costs[column] = costs[column], cost
    return costs[-1] / max(1, len(expected))


def cell(row: Row, name: str, scale: float, digits: int) -> str:
    """'min / median'"""
    values = row.values.get(name)
    if not values:
        return "-"
    return f"{min(values) * scale:.{digits}f} / {statistics.median(values) * scale:.{digits}f}"


def ratio(row: Row, own: Row | None, name: str) -> str:
    value, mine = row.median(name), own.median(name) if own else None
    return f"{value / mine:.2f}" if value and mine else "-"


def agreement(row: Row, rows: dict[str, Row], name: str) -> str:
    standard = rows.get(STANDARD)
    if not standard or name not in row.texts or name not in standard.texts:
        return "-"
    return f"{100 * (1 - word_error_rate(row.texts[name], standard.texts[name])):.1f}"


def table(rows: dict[str, Row], reference: str | None) -> list[str]:
    """One row for each engine, Markdown."""
    titles = ["engine", "import s", "load s", "clip s", "x", "encoder ms", "x", "ms a token", "x"]
    titles += ["long s", "x", "words", "MB clip", "MB long", "clip agrees %", "long agrees %"]
    titles += ["WER %"] if reference else []
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    own = rows.get(OWN)
    for name, row in rows.items():
        cells = [name + ("*" if row.noisy else ""), cell(row, "import_s", 1, 2)]
        cells.append(cell(row, "load_s", 1, 2))
        for stage, scale, digits in (("clip_s", 1, 3), ("encoder_s", 1e3, 1), ("token_s", 1e3, 2)):
            cells += [cell(row, stage, scale, digits), ratio(row, own, stage)]
        text = row.texts.get("long_text", "")
        cells += [cell(row, "long_s", 1, 2), ratio(row, own, "long_s"), str(len(words(text)))]
        cells += [f"{max(row.values.get(size, [0])):.0f}" for size in ("clip_mb", "long_mb")]
        cells += [agreement(row, rows, text) for text in ("clip_text", "long_text")]
        if reference:
            cells.append(f"{100 * word_error_rate(text, reference):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def versions() -> str:
    from importlib import metadata

    packages = "torch openai-whisper ctranslate2 faster-whisper pywhispercpp openvino-genai numpy"
    found = []
    for package in packages.split():
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def section(
    arguments: argparse.Namespace, rows: dict[str, Row], left_out: dict[str, str], seconds: str
) -> str:
    """The Markdown section: what ran where, the table, what was left out."""
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    isa = rows[OWN].isa if OWN in rows else "-"
    lines = [
        f"### {arguments.model}, {arguments.threads} threads, {day}",
        "",
        f"Commit {commit()}; {processor()}, {os.cpu_count()} logical cores; whisper-cy at {isa}; "
        f"audio {seconds}; Python {platform.python_version()}; {versions()}.",
        f"`python {shlex.join(sys.argv)}`",
        "min / median; x: median over whisper-cy's; * other processes took more than "
        f"{OTHERS} of a core in a round.",
        "",
        *table(rows, reference_text(arguments)),
        *(f"\nLeft out: {name} ({why})." for name, why in left_out.items()),
    ]
    return "\n".join(lines)


def reference_text(arguments: argparse.Namespace) -> str | None:
    return Path(arguments.reference).read_text("utf-8") if arguments.reference else None


def measure(arguments: argparse.Namespace) -> None:
    from whisper_cy.audio import SAMPLE_RATE, load_audio

    if arguments.isa and any(name.startswith("openvino") for name in arguments.engines):
        arguments.engines = [name for name in arguments.engines if "openvino" not in name]
        print("openvino: left out, it fails when oneDNN is held to a level", file=sys.stderr)
    lengths = []
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path | None] = []
        for name in (arguments.clip, arguments.long):
            if not name:
                paths.append(None)
                continue
            samples = load_audio(name)
            lengths.append(f"{len(samples) / SAMPLE_RATE:.1f} s")
            path = Path(folder) / f"{len(paths)}.npy"
            np.save(path, samples)
            paths.append(path)
        clip, long = paths
        assert clip is not None  # argparse requires it
        rows, left_out = run_rounds(arguments, clip, long)
    print(section(arguments, rows, left_out, " and ".join(lengths)))


def parse(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--models", required=True, help="folder with one folder of weights per model, see above")
    add("--model", default="tiny.en", help="name of the folder in --models")
    add("--clip", required=True, help="a recording of at most 30 s, English")
    add("--long", help="a recording of several minutes, English")
    add("--reference", help="text file with what is said in --long, for the word error rate")
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=5)
    add("--long-rounds", type=int, default=3, help="rounds in which the long file is read too")
    add("--attempts", type=int, default=3, help="processes for a round on a busy machine")
    add("--engines", default=",".join(ENGINES), help="comma-separated, default: %(default)s")
    add("--isa", choices=LEVELS, help="hold every engine that can be held to this level")
    add("--engine", choices=ENGINES, help=argparse.SUPPRESS)  # the inner process
    arguments = parser.parse_args(command_line)
    arguments.engines = arguments.engines.split(",")
    unknown = [name for name in arguments.engines if name not in ENGINES]
    if unknown:
        parser.error(f"unknown engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.engine:
        work(arguments)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()

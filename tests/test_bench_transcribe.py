"""What bench/bench_transcribe.py computes itself: word error rate, the table, what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import bench_transcribe as bench


def found(seconds: float, text: str, others: float = 0.0) -> dict[str, object]:
    times = {name: [seconds, 2 * seconds] for name in ("import_s", "load_s", "clip_s", "long_s")}
    texts = {"clip_text": text, "long_text": text}
    return {**times, **texts, "clip_mb": 100.0, "long_mb": 120.0, "others": others}


@pytest.mark.parametrize(
    ("text", "reference", "rate"),
    [
        ("And so, my fellow", "and so my fellow", 0.0),
        ("and so my", "and so my fellow", 0.25),
        ("and so my dear fellow", "and so my fellow", 0.25),
        ("and thus my fellow", "and so my fellow", 0.25),
        ("", "and so my fellow", 1.0),
        ("and", "", 1.0),
        ("", "", 0.0),
    ],
)
def test_word_error_rate(text: str, reference: str, rate: float) -> None:
    assert bench.word_error_rate(text, reference) == rate


def test_table_compares_with_whisper_cy_and_openai_whisper() -> None:
    rows = {name: bench.Row() for name in (bench.OWN, bench.STANDARD, "other")}
    rows[bench.OWN].add(found(1.0, "one two three four"))
    rows[bench.STANDARD].add(found(2.0, "one two three four"))
    rows["other"].add(found(3.0, "one two three", others=1.0))
    _, _, own, standard, other = bench.table(rows, "one two three four")
    assert own.startswith("| whisper-cy | 1.00 / 1.50 |")
    assert "| 2.00 / 3.00 | 2.00 |" in standard  # the long file: min, median, ratio
    assert other.startswith("| other* |")
    assert other.endswith("| 75.0 | 75.0 | 25.0 |")


def test_table_without_a_standard_has_no_agreement() -> None:
    row = bench.Row()
    row.add(found(1.0, "one"))
    assert bench.table({"other": row}, None)[-1].endswith("| - | - |")


def test_unknown_engine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        bench.parse(["--models", "m", "--clip", "c", "--engines", "whisper-cy,kaldi"])
    assert exit_status.value.code == 2
    assert "unknown engine kaldi" in capsys.readouterr().err

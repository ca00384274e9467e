"""The whisper-cy command: flags, files, exit codes, Ctrl-C, and one line for what goes wrong.

Tests with real weights and real speech skip where there are none (conftest.py).
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import project_speech, speech

import whisper_cy
from whisper_cy import cli
from whisper_cy.audio import load_audio
from whisper_cy.transcribe import Progress

COMMAND = [sys.executable, "-m", "whisper_cy"]


@pytest.fixture(scope="module")
def recording() -> Path:
    """A short recording of speech."""
    found = project_speech() or [item for item in speech() if item.path.suffix == ".wav"]
    if not found:
        pytest.skip("no recordings: neither in tests/data nor in WHISPER_CY_TEST_SPEECH")
    return min((item.path for item in found), key=lambda path: path.stat().st_size)


@pytest.fixture
def long_recording(recording: Path, tmp_path: Path) -> Path:
    """The recording again and again, ten minutes of it."""
    samples = load_audio(recording)
    path = tmp_path / "long.wav"
    write_wav(path, np.tile(samples, 600 * 16000 // len(samples) + 1))
    return path


def write_wav(path: Path, samples: np.ndarray) -> None:
    """samples (n,) at 16 kHz as 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture
def silence(tmp_path: Path) -> Path:
    path = tmp_path / "silence.wav"
    write_wav(path, np.zeros(16000))
    return path


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


# --- arguments -----------------------------------------------------------------------------------

REFUSED: list[tuple[list[str], str, int]] = [
    (["--beam_size", "5"], "beam_size: beam search is not available yet", 2),
    (["--best_of", "5"], "best_of: sampling is not available yet", 2),
    (["--patience", "1.0"], "patience", 2),
    (["--length_penalty", "0.6"], "length_penalty", 2),
    (["--temperature", "0.2"], "temperature: sampling is not available yet", 2),
    (["--temperature_increment_on_fallback", "0.2"], "temperature_increment_on_fallback", 2),
    (["--compression_ratio_threshold", "1.8"], "compression_ratio_threshold", 2),
    (["--word_timestamps", "True"], "word_timestamps: not available yet", 2),
    (["--highlight_words", "True"], "highlight_words", 2),
    (["--max_line_width", "40"], "max_line_width", 2),
    (["--max_line_count", "2"], "max_line_count", 2),
    (["--max_words_per_line", "5"], "max_words_per_line", 2),
    (["--hallucination_silence_threshold", "2"], "hallucination_silence_threshold", 2),
    (["--clip_timestamps", "1,2"], "clip_timestamps", 2),
    (["--device", "cuda"], "device 'cuda'", 2),
    (["--fp16", "True"], "fp16", 2),
    (["--language", "klingon"], "klingon", 2),
    (["--task", "sing"], "--task", 2),
    (["--output_format", "docx"], "--output_format", 2),
    (["--verbose", "yes"], "expected True or False, got 'yes'", 2),
    (["--no_speech_threshold", "7"], "no_speech_threshold", 2),
    (["--suppress_tokens", "a,b"], "suppress_tokens", 2),
    (["--threads", "-2"], "threads", 2),
    (["--threads", "many"], "--threads", 2),
    (["--compute_type", "int3"], "compute_type 'int3'", 2),
    (["--no_such_flag", "1"], "--no_such_flag", 2),
    (["--model", "enormous"], "unknown model 'enormous'", 4),
    (["--model", "./no/such/model"], "no model at ./no/such/model", 4),
]


@pytest.mark.parametrize(
    ("flags", "message", "code"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED]
)
def test_wrong_flag_is_one_line_and_its_code(
    flags: list[str],
    message: str,
    code: int,
    silence: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    assert cli.main([str(silence), "--output_dir", str(folder), *flags]) == code
    output = capsys.readouterr()
    assert len(lines(output.err)) == 1
    assert output.err.startswith("whisper-cy: ")
    assert message in output.err
    assert not output.out
    assert not folder.exists() or not any(folder.iterdir())


def test_openais_values_that_need_nothing_are_accepted() -> None:
    flags = (
        "--device cpu --fp16 False --beam_size None --best_of None --temperature 0 "
        "--temperature_increment_on_fallback None --compression_ratio_threshold 2.4 "
        "--logprob_threshold None --no_speech_threshold 0.6 --word_timestamps False "
        "--highlight_words False --max_line_width None --clip_timestamps 0 --threads 0 "
        "--hallucination_silence_threshold None --suppress_tokens -1 --language English"
    )
    args = cli.transcribe_parser().parse_args(["a.wav", *flags.split()])
    cli.refuse_what_is_not_there(args)
    cli.check_options(cli.decode_options(args))


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "audio" in capsys.readouterr().err


def test_help_has_every_exit_code_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, whisper_cy.cli\n"
        "try: whisper_cy.cli.main(['--help'])\n"
        "finally: print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    for exit_code in (0, 1, 2, 3, 4, 5, 6, 130, 141):
        assert f"\n  {exit_code} " in result.stdout
    assert not {"numpy", "tqdm", "whisper_cy.kernels"} & set(result.stdout.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"whisper-cy {whisper_cy.__version__}\n"


def test_info_names_processor_kernels_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    from whisper_cy import kernels

    assert cli.main(["info"]) == 0
    found = dict(line.split(":", 1) for line in lines(capsys.readouterr().out))
    assert found["whisper-cy"].strip() == whisper_cy.__version__
    assert found["level in use"].strip() == kernels.isa()
    assert set(kernels.available_isas()) == {name.strip() for name in found["levels"].split(",")}
    assert int(found["threads"]) >= 1
    assert found["processor"].strip()
    assert "model" in found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("errors_shown", "text_shown", "verbose", "bar"),
    [
        (True, True, False, True),
        (True, True, True, False),
        (True, False, True, True),
        (False, False, False, False),
    ],
)
def test_a_bar_is_shown_on_a_terminal_without_segments(
    errors_shown: bool,
    text_shown: bool,
    verbose: bool,
    bar: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = Terminal() if errors_shown else io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", Terminal() if text_shown else io.StringIO())
    with cli.progress_bar(verbose) as progress:
        assert (progress is not None) == bar
        for done in (0.0, 30.0, 60.0):
            if progress:
                progress(Progress(done, 60.0))
    assert ("60/60 s" in errors.getvalue()) == bar


# --- where results go ----------------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model must not be looked for: the mistake is seen before."""

    def load(args: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(cli, "load", load)


def test_two_recordings_of_one_name_are_refused(
    tmp_path: Path, no_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "out")
    assert cli.main(["a/talk.mp3", "b/talk.wav", "--output_dir", folder]) == 2
    message = capsys.readouterr().err
    assert "a/talk.mp3 and b/talk.wav would both be written" in message
    assert not Path(folder).exists()


def test_a_result_never_overwrites_a_recording(
    silence: Path, no_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    disguised = silence.rename(silence.with_suffix(".txt"))
    assert cli.main([str(disguised), "--output_dir", str(disguised.parent)]) == 2
    assert "overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [False, True])
def test_output_dir_that_is_a_file(
    inside: bool, silence: Path, no_model: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = silence / "deeper" if inside else silence
    assert cli.main([str(silence), "--output_dir", str(folder)]) == 5
    output = capsys.readouterr()
    assert len(lines(output.err)) == 1
    assert str(folder) in output.err


# --- real weights --------------------------------------------------------------------------------


def command(model: Path, folder: Path, *arguments: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "--model", model, "--output_dir", folder, "--threads", "1", *arguments],
        capture_output=True,
        timeout=300,
    )


def test_results_are_those_of_the_library(tiny_en: Path, recording: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = command(tiny_en, folder, recording)
    assert (result.returncode, result.stderr) == (0, b"")
    answer = whisper_cy.load_model(tiny_en, threads=1).transcribe(recording)
    assert json.loads((folder / f"{recording.stem}.json").read_text()) == answer.to_dict()
    written = (folder / f"{recording.stem}.txt").read_text("utf-8").split()
    assert written == answer.text.split()
    assert {path.suffix for path in folder.iterdir()} == {".txt", ".vtt", ".srt", ".tsv", ".json"}
    shown = result.stdout.decode().splitlines()
    assert len(shown) == len(answer.segments)
    assert shown[0].startswith("[00:0")
    assert shown[0].endswith("] " + answer.segments[0].text)


def test_the_language_is_detected_and_said(
    base: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(recording), "--model", str(base), "-o", str(tmp_path), "--threads", "1"]
    assert cli.main([*arguments, "-f", "json"]) == 0
    assert capsys.readouterr().out.startswith("Detected language: English\n")
    assert json.loads((tmp_path / f"{recording.stem}.json").read_text())["language"] == "en"
    code, probabilities = whisper_cy.load_model(base, threads=1).detect_language(recording)
    assert code == "en" == max(probabilities, key=probabilities.__getitem__)
    assert len(probabilities) == 99
    assert sum(probabilities.values()) == pytest.approx(1)


def test_characters_the_terminal_does_not_know(
    tiny_en: Path, recording: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from whisper_cy import cli\n"
        "cli.print_segment = lambda segment: print('caf\\u00e9')\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            recording,
            "--model",
            tiny_en,
            "-o",
            tmp_path,
            "--threads",
            "1",
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert set(result.stdout.split()) == {b"caf?"}


def test_standard_input(tiny_en: Path, recording: Path, tmp_path: Path) -> None:
    quiet = ["--verbose", "False", "--threads", "1"]
    with recording.open("rb") as file:
        result = subprocess.run(
            [*COMMAND, "-", "--model", tiny_en, "-o", tmp_path, "-f", "txt", *quiet],
            stdin=file,
            capture_output=True,
            timeout=300,
        )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert (tmp_path / "stdin.txt").read_text("utf-8").strip()


def test_one_bad_recording_does_not_stop_the_others(
    tiny_en: Path, recording: Path, silence: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    text = tmp_path / "text.mp3"
    text.write_text("not audio " * 1000)
    folder = tmp_path / "out"
    bad = [tmp_path / "missing.wav", empty, text, tmp_path]
    result = command(tiny_en, folder, bad[0], silence, *bad[1:], recording, "-f", "txt")
    assert result.returncode == 3
    said = lines(result.stderr.decode())
    assert len(said) == len(bad)
    for line, path in zip(said, bad, strict=True):
        assert line.startswith("whisper-cy: ")
        assert str(path) in line
    written = {path.name for path in folder.iterdir()}
    assert written == {"silence.txt", f"{recording.stem}.txt"}


def test_weights_that_are_none(silence: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.bin").write_bytes(b"nothing of the kind" * 100)
    result = command(tmp_path / "weights", tmp_path, silence)
    assert result.returncode == 4
    assert len(lines(result.stderr.decode())) == 1


def test_an_unwritable_result(tiny_en: Path, recording: Path, tmp_path: Path) -> None:
    """A folder of the result's name stands in its way."""
    (tmp_path / f"{recording.stem}.txt").mkdir()
    result = command(tiny_en, tmp_path, recording, "-f", "txt")
    assert result.returncode == 5
    assert len(lines(result.stderr.decode())) == 1
    assert f"{recording.stem}.txt" in result.stderr.decode()


def start(model: Path, folder: Path, *arguments: Any) -> subprocess.Popen[str]:
    """The command as a shell starts it in the foreground: a background job may ignore Ctrl-C."""
    return subprocess.Popen(
        [*COMMAND, "--model", model, "--output_dir", folder, "--threads", "1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended whatever the test does."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_ctrl_c_keeps_what_was_transcribed(
    tiny_en: Path, long_recording: Path, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(tiny_en, tmp_path / "out", long_recording)
    running.append(process)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert lines(errors) == ["whisper-cy: interrupted; what was transcribed until then is kept"]
    shown = [line.split("]", 1)[1].strip() for line in lines(first + rest)]
    assert shown
    kept = (tmp_path / "out" / "long.txt").read_text("utf-8").splitlines()
    assert kept[: len(shown)] == shown
    result = json.loads((tmp_path / "out" / "long.json").read_text())
    assert [segment["text"].strip() for segment in result["segments"]] == kept
    assert result["language"] == "en"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {
        ".txt", ".vtt", ".srt", ".tsv", ".json"
    }  # fmt: skip


def test_ctrl_c_before_the_first_segment_writes_nothing(
    tiny_en: Path, long_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whisper_cy.api import Whisper

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Whisper, "encode", interrupted)
    arguments: Sequence[Any] = [long_recording, "--model", tiny_en, "-o", tmp_path / "out"]
    assert cli.main([str(argument) for argument in arguments]) == 130
    assert not any((tmp_path / "out").iterdir())


def test_a_reader_that_leaves(
    tiny_en: Path, long_recording: Path, tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    process = start(tiny_en, tmp_path / "out", long_recording)
    running.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert (tmp_path / "out" / "long.txt").read_text("utf-8").strip()


def test_export_and_load_again(tiny_en: Path, recording: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    assert cli.main(["export", str(tiny_en), str(folder)]) == 0
    assert (folder / "model.safetensors").exists()
    original = whisper_cy.load_model(tiny_en, threads=1).transcribe(recording)
    assert whisper_cy.load_model(folder, threads=1).transcribe(recording) == original


def test_export_of_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tmp_path / "none.pt"), str(tmp_path / "out")]) == 4
    assert len(lines(capsys.readouterr().err)) == 1
    assert not (tmp_path / "out").exists()

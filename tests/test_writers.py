"""The writers: byte for byte openai-whisper's, atomic, and nothing lost by an interruption."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisper_cy.errors import OptionError, OutputError
from whisper_cy.result import Segment, Transcript, Word
from whisper_cy.writers import (
    FORMATS,
    SegmentWriter,
    format_json,
    format_names,
    format_result,
    format_srt,
    format_timestamp,
    format_tsv,
    format_txt,
    format_vtt,
    get_writer,
    output_path,
)


def segment(number: int, start: float, end: float, text: str, **more: Any) -> Segment:
    return Segment(number, 0, start, end, text, (50364, 400, 50464), 0.0, -0.25, 1.5, 0.01, **more)


def transcript(*segments: Segment) -> Transcript:
    return Transcript("".join(part.text for part in segments), segments, "en")


TALK = transcript(
    segment(0, 0.0, 2.48, " Good morning."),
    segment(1, 2.48, 59.9996, ' A\ttab, an --> arrow, "quotes" & ünïcode 你好 \U0001f600\n'),
    segment(2, 3599.9994, 3661.005, ""),
    segment(3, 3661.005, 360000.5, "  spaces around  "),
)
EMPTY = transcript()
WORDS = transcript(
    segment(
        0,
        0.0,
        3.0,
        " Two words.",
        words=(Word(" Two", 0.1, 0.5, 0.9), Word(" words.", 0.5, 2.9, 1.0)),
    ),
    segment(1, 3.0, 4.0, "", words=()),
    segment(2, 4.0, 5.0, " a --> b", words=(Word(" a --> b", 4.25, 4.75, 0.5),)),
)
RESULTS = {"talk": TALK, "empty": EMPTY, "words": WORDS}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("output_format", [*FORMATS, "all"])
def test_files_equal_openais(name: str, output_format: str, tmp_path: Path) -> None:
    utils = pytest.importorskip("whisper.utils", reason="openai-whisper is not installed")
    for folder in ("own", "openai"):
        (tmp_path / folder).mkdir()
    utils.get_writer(output_format, str(tmp_path / "openai"))(
        RESULTS[name].to_dict(), "a/talk.1.mp3", {}
    )
    get_writer(output_format, tmp_path / "own")(RESULTS[name], "a/talk.1.mp3")
    names = sorted(os.listdir(tmp_path / "openai"))
    assert sorted(os.listdir(tmp_path / "own")) == names
    for file in names:
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "openai" / file).read_bytes()


def test_txt() -> None:
    text = (
        'Good morning.\nA\ttab, an --> arrow, "quotes" & ünïcode 你好 \U0001f600\n\nspaces around\n'
    )
    assert format_txt(TALK) == text


def test_srt() -> None:
    assert format_srt(TALK) == (
        "1\n00:00:00,000 --> 00:00:02,480\nGood morning.\n\n"
        "2\n00:00:02,480 --> 00:01:00,000\n"
        'A\ttab, an -> arrow, "quotes" & ünïcode 你好 \U0001f600\n\n'
        "3\n00:59:59,999 --> 01:01:01,005\n\n\n"
        "4\n01:01:01,005 --> 100:00:00,500\nspaces around\n\n"
    )


def test_vtt() -> None:
    assert format_vtt(TALK) == (
        "WEBVTT\n\n00:00.000 --> 00:02.480\nGood morning.\n\n"
        '00:02.480 --> 01:00.000\nA\ttab, an -> arrow, "quotes" & ünïcode 你好 \U0001f600\n\n'
        "59:59.999 --> 01:01:01.005\n\n\n"
        "01:01:01.005 --> 100:00:00.500\nspaces around\n\n"
    )


def test_tsv() -> None:
    assert format_tsv(TALK) == (
        "start\tend\ttext\n0\t2480\tGood morning.\n"
        '2480\t60000\tA tab, an --> arrow, "quotes" & ünïcode 你好 \U0001f600\n'
        "3599999\t3661005\t\n3661005\t360000500\tspaces around\n"
    )


def test_subtitles_of_words_last_from_the_first_word_to_the_last() -> None:
    assert format_srt(WORDS) == (
        "1\n00:00:00,100 --> 00:00:02,900\nTwo words.\n\n"
        "2\n00:00:04,250 --> 00:00:04,750\na --> b\n\n"
    )


def test_json_has_exactly_openais_shape() -> None:
    result = json.loads(format_json(WORDS))
    assert list(result) == ["text", "segments", "language"]
    names = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob"
    assert list(result["segments"][0]) == [*names.split(), "words"]
    assert list(result["segments"][0]["words"][0]) == ["word", "start", "end", "probability"]
    assert "words" not in json.loads(format_json(TALK))["segments"][0]
    assert format_json(TALK).isascii()


def test_a_result_of_numpy_numbers_gives_plain_ones() -> None:
    number = np.float32(0.5)
    tokens = tuple(np.array([1, 2]))
    part = Segment(np.int64(1), np.int32(2), number, number, " x", tokens, *[number] * 4)
    fields = part.to_dict()
    assert {type(value) for value in fields.values()} == {int, float, str, list}
    assert [type(token) for token in fields["tokens"]] == [int, int]
    assert json.loads(json.dumps(fields)) == fields


def test_results_are_frozen() -> None:
    for value in (TALK, TALK.segments[0], Word("a", 0.0, 1.0, 1.0)):
        with pytest.raises(AttributeError):
            value.text = "other"  # type: ignore[union-attr, misc]


def test_dictionaries_are_results_too() -> None:
    for name in FORMATS:
        assert format_result(TALK.to_dict(), name) == format_result(TALK, name)


@pytest.mark.parametrize(
    ("seconds", "short", "long"),
    [
        (0.0, "00:00.000", "00:00:00.000"),
        (0.0005, "00:00.000", "00:00:00.000"),
        (59.9995, "01:00.000", "00:01:00.000"),
        (3600.0, "01:00:00.000", "01:00:00.000"),
    ],
)
def test_timestamps(seconds: float, short: str, long: str) -> None:
    assert format_timestamp(seconds) == short
    assert format_timestamp(seconds, hours=True) == long


def test_timestamps_equal_openais() -> None:
    utils = pytest.importorskip("whisper.utils", reason="openai-whisper is not installed")
    for seconds in np.random.default_rng(5).uniform(0, 40000, 2000).tolist():
        assert format_timestamp(seconds) == utils.format_timestamp(seconds)


def test_format_names() -> None:
    assert format_names("all") == format_names(["srt", "all"]) == tuple(FORMATS)
    assert format_names(["srt", "txt", "srt"]) == ("srt", "txt")
    with pytest.raises(
        OptionError, match="unknown output format 'doc': choose one of txt, vtt, srt"
    ):
        format_names("doc")
    with pytest.raises(OptionError, match="unknown output format"):
        get_writer("doc", ".")
    with pytest.raises(OptionError, match="unknown output format 'all'"):
        format_result(TALK, "all")


@pytest.mark.parametrize(
    ("audio", "name"),
    [
        ("a/b/talk.mp3", "talk.srt"),
        (Path("talk.2024.wav"), "talk.2024.srt"),
        ("no_ending", "no_ending.srt"),
        (".hidden", ".hidden.srt"),
        ("-", "stdin.srt"),
    ],
)
def test_output_path(audio: str | Path, name: str) -> None:
    assert output_path("out", audio, "srt") == Path("out", name)


# --- writing segment by segment -------------------------------------------------------------------


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


@pytest.mark.parametrize("name", RESULTS)
def test_segment_by_segment_gives_the_same_files(name: str, tmp_path: Path) -> None:
    get_writer("all", tmp_path / "whole")(RESULTS[name], "talk.mp3")
    with SegmentWriter("all", tmp_path / "parts", "talk.mp3") as writer:
        for part in RESULTS[name].segments:
            writer.write(part)
        writer.close(RESULTS[name])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_leaving_without_close_ends_the_files_with_what_came(tmp_path: Path) -> None:
    with SegmentWriter("all", tmp_path / "parts", "talk.mp3", language="en") as writer:
        for part in TALK.segments:
            writer.write(part)
    get_writer("all", tmp_path / "whole")(TALK, "talk.mp3")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_keeps_what_was_decoded(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), SegmentWriter("all", tmp_path, "talk.mp3") as writer:
        writer.write(TALK.segments[0])
        writer.write(TALK.segments[1])
        raise error
    so_far = transcript(*TALK.segments[:2]).to_dict() | {"language": None}
    expected = {f"talk.{name}": format_result(so_far, name) for name in FORMATS}
    assert contents(tmp_path) == expected


def test_an_interruption_before_the_first_segment_touches_no_file(tmp_path: Path) -> None:
    (tmp_path / "talk.srt").write_text("of yesterday")
    with pytest.raises(KeyboardInterrupt), SegmentWriter("all", tmp_path, "talk.mp3"):
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"talk.srt": "of yesterday"}


def test_segments_are_in_the_file_before_the_next_one_comes(tmp_path: Path) -> None:
    """A process that is killed leaves them in the .part file."""
    writer = SegmentWriter(["txt", "srt"], tmp_path, "talk.mp3")
    assert writer.paths == (tmp_path / "talk.txt", tmp_path / "talk.srt")
    writer.write(TALK.segments[0])
    (part,) = tmp_path.glob("talk.txt.*.part")
    assert part.read_text() == "Good morning.\n"
    assert not (tmp_path / "talk.txt").exists()
    writer.discard()
    assert contents(tmp_path) == {}


def test_two_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    first, second = (SegmentWriter("txt", tmp_path, "talk.mp3") for _ in range(2))
    first.write(TALK.segments[0])
    second.write(TALK.segments[3])
    first.close()
    second.close()
    assert contents(tmp_path) == {"talk.txt": "spaces around\n"}


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    writer = SegmentWriter("txt", tmp_path, "talk.mp3")
    writer.close(TALK)
    writer.close()
    writer.discard()
    assert contents(tmp_path) == {"talk.txt": ""}


# --- what can go wrong ----------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_text("old")
    broken = TALK.to_dict() | {"text": object()}
    with pytest.raises(TypeError):
        get_writer("json", tmp_path)(broken, "talk.mp3")
    assert contents(tmp_path) == {"talk.json": "old"}


def test_the_folder_is_made(tmp_path: Path) -> None:
    get_writer("txt", tmp_path / "a" / "b")(TALK, "talk.mp3")
    assert (tmp_path / "a" / "b" / "talk.txt").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for write in (
        lambda: get_writer("srt", tmp_path / "out")(TALK, "talk.mp3"),
        lambda: SegmentWriter("srt", tmp_path / "out", "talk.mp3"),
    ):
        with pytest.raises(OutputError, match=r"cannot write .*talk\.srt: "):
            write()


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "talk.srt").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*talk\.srt: "):
        get_writer("srt", tmp_path)(TALK, "talk.mp3")
    assert os.listdir(tmp_path) == ["talk.srt"]
    with (
        pytest.raises(OutputError, match=r"cannot write .*talk\.srt: .* so far are in .*\.part"),
        SegmentWriter(["txt", "srt", "json"], tmp_path, "talk.mp3") as writer,
    ):
        writer.write(TALK.segments[0])
    assert (tmp_path / "talk.txt").read_text() == "Good morning.\n"
    assert json.loads((tmp_path / "talk.json").read_text())["text"] == " Good morning."


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    writer = SegmentWriter("txt", tmp_path, "talk.mp3")
    writer._files[0]._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(OutputError, match=r"cannot write .*talk\.txt: No space left on device"):
        writer.write(TALK.segments[0])
    writer.discard()
    assert contents(tmp_path) == {}

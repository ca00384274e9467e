"""Transcripts as files: txt, vtt, srt, tsv and json, byte for byte as openai-whisper writes them.

    result -> begin, one piece for each segment, end -> talk.srt.<n>.part -> renamed to talk.srt

`format_srt(result)` and its sisters give the text alone, `get_writer` writes a finished result, and
`SegmentWriter` writes each segment as it is decoded, so that an interruption keeps all before it.
A result is a Transcript or the dictionary which openai-whisper returns.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import OptionError, OutputError
from .result import Segment, Transcript

Result = Transcript | Mapping[str, Any]
StrPath = str | os.PathLike[str]


class Formatter:
    """One format: what begins a file, what each segment adds, what ends it. One object a file."""

    begin = ""

    def segment(self, segment: Mapping[str, Any]) -> str:
        """What the next segment adds, given as openai-whisper's dictionary."""
        raise NotImplementedError

    def end(self, result: Mapping[str, Any]) -> str:
        """What the file ends with once the whole result is known."""
        return ""


class TextFormatter(Formatter):
    """A line for each segment."""

    def segment(self, segment: Mapping[str, Any]) -> str:
        return f"{segment['text'].strip()}\n"


class VttFormatter(Formatter):
    """WebVTT: hours only where there are any, a point before the milliseconds."""

    begin = "WEBVTT\n\n"

    def segment(self, segment: Mapping[str, Any]) -> str:
        return _cue(segment, format_timestamp)


class SrtFormatter(Formatter):
    """SubRip: numbered from 1, always with hours, a comma before the milliseconds."""

    def __init__(self) -> None:
        self._number = 0

    def segment(self, segment: Mapping[str, Any]) -> str:
        cue = _cue(segment, lambda seconds: format_timestamp(seconds, ",", hours=True))
        self._number += bool(cue)
        return cue and f"{self._number}\n{cue}"


class TsvFormatter(Formatter):
    """Tab-separated start and end in whole milliseconds, and text."""

    begin = "start\tend\ttext\n"

    def segment(self, segment: Mapping[str, Any]) -> str:
        start, end = round(1000 * segment["start"]), round(1000 * segment["end"])
        text = segment["text"].strip().replace("\t", " ")
        return f"{start}\t{end}\t{text}\n"


class JsonFormatter(Formatter):
    """The whole result as one object, which begins with all the text: so nothing before the end."""

    def segment(self, segment: Mapping[str, Any]) -> str:
        return ""

    def end(self, result: Mapping[str, Any]) -> str:
        return json.dumps(result)


FORMATS: dict[str, type[Formatter]] = {
    "txt": TextFormatter,
    "vtt": VttFormatter,
    "srt": SrtFormatter,
    "tsv": TsvFormatter,
    "json": JsonFormatter,
}


def format_timestamp(seconds: float, decimal_mark: str = ".", *, hours: bool = False) -> str:
    """83.5 -> "01:23.500"; with hours always, or only from one hour on."""
    minutes, milliseconds = divmod(round(seconds * 1000.0), 60_000)
    hour, minute = divmod(minutes, 60)
    second, milliseconds = divmod(milliseconds, 1000)
    front = f"{hour:02d}:" if hours or hour > 0 else ""
    return f"{front}{minute:02d}:{second:02d}{decimal_mark}{milliseconds:03d}"


def _cue(segment: Mapping[str, Any], timestamp: Callable[[float], str]) -> str:
    """A segment as a subtitle; one with word times lasts from its first word to its last."""
    start, end = segment["start"], segment["end"]
    text = segment["text"].strip().replace("-->", "->")
    if "words" in segment:
        words = segment["words"]
        if not words:
            return ""
        start, end = words[0]["start"], words[-1]["end"]
        text = words[0]["word"].strip() + "".join(word["word"] for word in words[1:])
    return f"{timestamp(start)} --> {timestamp(end)}\n{text}\n\n"


def format_result(result: Result, output_format: str) -> str:
    """The content of the file of this one format."""
    if output_format not in FORMATS:
        raise _unknown(output_format, FORMATS)
    fields = _fields(result)
    formatter = FORMATS[output_format]()
    pieces = map(formatter.segment, fields["segments"])
    return formatter.begin + "".join(pieces) + formatter.end(fields)


def format_txt(result: Result) -> str:
    """A line for each segment."""
    return format_result(result, "txt")


def format_vtt(result: Result) -> str:
    """WebVTT subtitles."""
    return format_result(result, "vtt")


def format_srt(result: Result) -> str:
    """SubRip subtitles."""
    return format_result(result, "srt")


def format_tsv(result: Result) -> str:
    """Tab-separated start (ms), end (ms) and text, with a line of headings."""
    return format_result(result, "tsv")


def format_json(result: Result) -> str:
    """openai-whisper's dictionary as JSON in ASCII."""
    return format_result(result, "json")


def format_names(output_format: str | Iterable[str]) -> tuple[str, ...]:
    """A format, several, or "all" -> the names of formats, each once; OptionError if unknown."""
    given = [output_format] if isinstance(output_format, str) else list(output_format)
    for name in given:
        if name != "all" and name not in FORMATS:
            raise _unknown(name, [*FORMATS, "all"])
    return tuple(FORMATS) if "all" in given else tuple(dict.fromkeys(given))


def _unknown(name: str, choices: Iterable[str]) -> OptionError:
    return OptionError(f"unknown output format {name!r}: choose one of {', '.join(choices)}")


def output_path(output_dir: StrPath, audio_path: StrPath, extension: str) -> Path:
    """Where the result of a recording goes: talk.mp3 -> output_dir/talk.srt; "-" -> stdin.srt."""
    name = os.path.basename(os.fspath(audio_path))
    stem = "stdin" if name == "-" else os.path.splitext(name)[0]
    return Path(output_dir, f"{stem}.{extension}")


def get_writer(output_format: str, output_dir: StrPath) -> Callable[[Result, StrPath], None]:
    """A function (result, audio_path) which writes the file of this format, or of "all".

    A file appears whole or not at all; output_dir is made where it is missing.
    """
    names = format_names(output_format)

    def write(result: Result, audio_path: StrPath) -> None:
        for name in names:
            content = format_result(result, name)
            with _File(output_path(output_dir, audio_path, name)) as file:
                file.write(content)

    return write


def _fields(result: Result) -> Mapping[str, Any]:
    return result.to_dict() if isinstance(result, Transcript) else result


class SegmentWriter:
    """Writes segments as they come; after `close` the files equal those of `get_writer`.

        with SegmentWriter("all", folder, "talk.mp3") as writer:
            for segment in ...:
                writer.write(segment)
            writer.close(transcript)

    Until then they are talk.srt.<n>.part and so on, complete to the last segment but for json. Left
    without `close`, by an error or Ctrl-C, the files keep the segments so far under their final
    names, json too; with no segment so far there is nothing to keep and no file is touched.
    """

    def __init__(
        self,
        formats: str | Iterable[str],
        output_dir: StrPath,
        audio_path: StrPath,
        language: str | None = None,
    ) -> None:
        """formats: one of FORMATS, several or "all"; language: for json without a transcript."""
        self._language = language
        self._started = False
        self._segments: list[dict[str, Any]] = []  # kept for json alone
        self._formatters = [(FORMATS[name](), name) for name in format_names(formats)]
        self._files: list[_File] = []
        try:
            for formatter, name in self._formatters:
                self._files.append(_File(output_path(output_dir, audio_path, name)))
                self._files[-1].write(formatter.begin)
        except OutputError:
            self.discard()
            raise

    @property
    def paths(self) -> tuple[Path, ...]:
        """The final names of the files."""
        return tuple(file.path for file in self._files)

    def write(self, segment: Segment) -> None:
        """Adds one segment to each file and hands it to the system."""
        fields = segment.to_dict()
        self._started = True
        for (formatter, name), file in zip(self._formatters, self._files, strict=True):
            file.write(formatter.segment(fields))
            if name == "json":
                self._segments.append(fields)

    def close(self, transcript: Transcript | None = None) -> None:
        """Ends the files with the whole transcript, or with the segments written so far."""
        result = self._so_far() if transcript is None else _fields(transcript)
        failures = []
        for (formatter, _), file in zip(self._formatters, self._files, strict=True):
            try:
                file.write(formatter.end(result))
                file.finish()
            except OutputError as error:  # the other files can still be saved
                failures.append(OutputError(f"{error}; the segments so far are in {file.part}"))
        self._formatters, self._files = [], []
        if failures:
            raise failures[0]

    def discard(self) -> None:
        """Removes the files that are not closed yet; older ones of their names stay."""
        for file in self._files:
            file.discard()
        self._formatters, self._files = [], []

    def _so_far(self) -> dict[str, Any]:
        text = "".join(segment["text"] for segment in self._segments)
        return {"text": text, "segments": self._segments, "language": self._language}

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started or error is None:
            self.close()
        else:
            self.discard()


class _File:
    """A text file that takes its name only when it is finished."""

    _numbers = itertools.count()

    def __init__(self, path: Path) -> None:
        self.path = path
        # Two writers of one name, in this process or another, do not share a part.
        unique = f"{os.getpid()}-{next(self._numbers)}"
        self.part = path.with_name(f"{path.name}.{unique}.part")
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.part, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, text: str) -> None:
        """Adds text and hands it to the system, so that a killed process loses none."""
        with self._errors():
            self._file.write(text)
            self._file.flush()

    def finish(self) -> None:
        """Gives the file its name, in the place of an older one."""
        with self._errors():
            self._file.close()
            os.replace(self.part, self.path)

    def discard(self) -> None:
        """Removes what was written; an older file of this name stays."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.part.unlink()

    def __enter__(self) -> _File:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()  # nothing is left to discard once it has its name

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """An error of the system as an OutputError which names the file."""
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

"""The whisper-cy command: arguments -> segments -> files; errors -> one line and an exit code.

Flags have openai-whisper's names, values and defaults, but for the model and for what is not there
yet: such flags are refused by name. Heavy modules are imported where they are needed, so that
--help and a wrong argument answer at once.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import __version__
from .errors import OptionError, OutputError, WhisperCyError

if TYPE_CHECKING:
    from .api import Whisper
    from .result import Segment
    from .transcribe import Progress, SegmentStream

Parsed = TypeVar("Parsed")

PROGRAM = "whisper-cy"
UNEXPECTED = 1
INTERRUPTED = 130
PIPE_CLOSED = 141
FORMATS = ("txt", "vtt", "srt", "tsv", "json", "all")
EPILOG = """\
other commands:
  whisper-cy info              processor, kernels, threads and models found
  whisper-cy export MODEL OUT  write a model as a Hugging Face folder

exit codes (of the first failure; the other recordings are still transcribed):
  0    done
  1    unexpected error
  2    wrong option or argument
  3    a recording cannot be read as audio
  4    the model was not found or cannot be read
  5    a result cannot be written
  6    cancelled
  130  interrupted by Ctrl-C; what was transcribed until then is kept
  141  standard output was closed by its reader
"""
DECODE_FLAGS = (
    "task",
    "language",
    "temperature",
    "best_of",
    "beam_size",
    "patience",
    "length_penalty",
    "suppress_tokens",
    "initial_prompt",
    "carry_initial_prompt",
    "condition_on_previous_text",
    "without_timestamps",
    "fp16",
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
    "word_timestamps",
    "prepend_punctuations",
    "append_punctuations",
    "clip_timestamps",
    "hallucination_silence_threshold",
)
BAR_FORMAT = "{percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s [{elapsed} < {remaining}]"
WORD_FLAGS = ("highlight_words", "max_line_width", "max_line_count", "max_words_per_line")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; arguments without the program's name, by default those of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"info": info_command, "export": export_command}
    command = commands.get(given[0]) if given else None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not know every character
    try:
        with _warnings_as_lines():
            return command(given[1:]) if command else transcribe_command(given)
    except WhisperCyError as error:
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted; what was transcribed until then is kept")
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return PIPE_CLOSED


def complain(what: object) -> None:
    """One line on standard error."""
    print(f"{PROGRAM}: {what}", file=sys.stderr, flush=True)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_keywords: complain(f"warning: {message}")
        yield


def _forget_stdout() -> None:
    """The reader has gone: without this Python would complain once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- arguments -----------------------------------------------------------------------------------


def true_or_false(text: str) -> bool:
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")
    return text == "True"


def optional(kind: Callable[[str], Parsed]) -> Callable[[str], Parsed | None]:
    """The word None, or what `kind` reads."""

    def read(text: str) -> Parsed | None:
        return None if text == "None" else kind(text)

    read.__name__ = kind.__name__
    return read


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message} (see {self.prog} --help)")


def transcribe_parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Transcribe recordings with OpenAI's Whisper on the CPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "audio", nargs="+", help="recordings to transcribe; - reads one from standard input"
    )
    _add_model_flags(parser)
    _add_output_flags(parser)
    _add_decoding_flags(parser)
    _add_long_form_flags(parser)
    _add_word_flags(parser)
    return parser


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "--model",
        metavar="NAME|PATH",
        help="name of a model or path of its weights; by default "
        "the installed weights package's, else tiny",
    )
    add("--model_dir", metavar="DIR", help="where to keep downloads (the Hugging Face cache)")
    add(
        "--local_files_only",
        type=true_or_false,
        default=False,
        metavar="BOOL",
        help="never use the network (False)",
    )
    add(
        "--compute_type", default="float32", metavar="TYPE", help="type of the arithmetic (float32)"
    )
    add(
        "--threads",
        type=optional(int),
        default=0,
        metavar="N",
        help="threads to use; 0 for the physical cores this process may use",
    )
    add("--device", default="cpu", help="cpu, the only one there is")


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("-o", "--output_dir", default=".", metavar="DIR", help="folder of the results (.)")
    add(
        "-f",
        "--output_format",
        default="all",
        choices=FORMATS,
        help="format of the results (all)",
    )
    add(
        "--verbose",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="print segments as they are decoded (True)",
    )


def _add_decoding_flags(parser: argparse.ArgumentParser) -> None:
    """Only flags that are given come out of the parser: the defaults are the library's."""
    group = parser.add_argument_group("decoding", argument_default=argparse.SUPPRESS)
    add = group.add_argument
    add(
        "--task",
        choices=["transcribe", "translate"],
        help="write down what is said (transcribe), or its translation into English",
    )
    add("--language", metavar="LANGUAGE", help="code or English name; detected where not given")
    add("--temperature", type=float, metavar="T", help="0, as there is no sampling yet")
    for name in ("best_of", "beam_size"):
        add(f"--{name}", type=optional(int), metavar="N", help="None: not available yet")
    for name in ("patience", "length_penalty"):
        add(f"--{name}", type=optional(float), metavar="X", help="None: not available yet")
    add(
        "--suppress_tokens",
        metavar="IDS",
        help="token ids never to write, with commas; -1 for the symbols nobody says (-1)",
    )
    add(
        "--without_timestamps",
        type=true_or_false,
        metavar="BOOL",
        help="text only, one segment a window (False)",
    )
    add("--fp16", type=true_or_false, metavar="BOOL", help="False, as the arithmetic is float32")


def _add_long_form_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("long recordings", argument_default=argparse.SUPPRESS)
    add = group.add_argument
    add("--initial_prompt", metavar="TEXT", help="text to go before the first window")
    add(
        "--carry_initial_prompt",
        type=true_or_false,
        metavar="BOOL",
        help="put initial_prompt before every window (False)",
    )
    add(
        "--condition_on_previous_text",
        type=true_or_false,
        metavar="BOOL",
        help="give each window the text before it (True)",
    )
    add(
        "--no_speech_threshold",
        type=optional(float),
        metavar="P",
        help="a window is silence if nobody speaks with more than this probability (0.6) ...",
    )
    add(
        "--logprob_threshold",
        type=optional(float),
        metavar="X",
        help="... and its tokens have no more than this log probability on average (-1.0)",
    )
    add(
        "--compression_ratio_threshold",
        type=optional(float),
        metavar="X",
        help="2.4, as the temperature fallback it is for is not available yet",
    )
    add(
        "--temperature_increment_on_fallback",
        type=optional(float),
        metavar="T",
        help="None: not available yet",
    )
    add("--clip_timestamps", metavar="TIMES", help="0: not available yet")


def _add_word_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "words (not available yet)", argument_default=argparse.SUPPRESS
    )
    add = group.add_argument
    add("--word_timestamps", type=true_or_false, metavar="BOOL", help="False")
    add("--prepend_punctuations", metavar="TEXT", help="without effect")
    add("--append_punctuations", metavar="TEXT", help="without effect")
    add("--highlight_words", type=true_or_false, metavar="BOOL", help="False")
    for name in ("max_line_width", "max_line_count", "max_words_per_line"):
        add(f"--{name}", type=optional(int), metavar="N", help="None")
    add("--hallucination_silence_threshold", type=optional(float), metavar="SECONDS", help="None")


def refuse_what_is_not_there(args: argparse.Namespace) -> None:
    """Flags of features to come, where the library itself has no such option."""
    if args.device != "cpu":
        raise OptionError(f"device {args.device!r}: there is only cpu")
    if getattr(args, "temperature_increment_on_fallback", None) is not None:
        raise OptionError(
            "temperature_increment_on_fallback: temperature fallback is not available yet; "
            "leave it at None"
        )
    if getattr(args, "compression_ratio_threshold", None) not in (None, 2.4):
        raise OptionError(
            "compression_ratio_threshold: the temperature fallback it is for is not available "
            "yet; leave it at 2.4"
        )
    for name in WORD_FLAGS:
        if getattr(args, name, None):
            raise OptionError(f"{name}: it needs word_timestamps, which is not available yet")


# --- whisper-cy AUDIO ... ------------------------------------------------------------------------


def transcribe_command(arguments: Sequence[str]) -> int:
    args = transcribe_parser().parse_args(arguments)
    refuse_what_is_not_there(args)
    options = decode_options(args)
    check_options(options)
    check_outputs(args)
    make_output_dir(Path(args.output_dir))
    model = load(args)
    codes = [transcribe_one(model, audio, args, options) for audio in args.audio]
    return next((code for code in codes if code), 0)


def decode_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given and are options of the library."""
    return {name: getattr(args, name) for name in DECODE_FLAGS if hasattr(args, name)}


def check_options(options: dict[str, Any]) -> None:
    """Wrong values are an error before a model is looked for."""
    from .transcribe import TranscribeOptions

    TranscribeOptions.from_keywords(options)


def load(args: argparse.Namespace) -> Whisper:
    from .api import load_model
    from .models import default_model

    return load_model(
        args.model or default_model(),
        compute_type=args.compute_type,
        threads=args.threads or None,
        download_root=args.model_dir,
        local_files_only=args.local_files_only,
    )


def check_outputs(args: argparse.Namespace) -> None:
    """No two recordings are written to the same file, none to a recording."""
    from .writers import format_names, output_path

    taken: dict[Path, str] = {}
    for audio in args.audio:
        for extension in format_names(args.output_format):
            path = output_path(args.output_dir, audio, extension)
            if path in taken:
                raise OptionError(
                    f"{taken[path]} and {audio} would both be written to {path}: transcribe them "
                    "one by one, each to an output_dir of its own"
                )
            if any(_same_file(path, other) for other in args.audio):
                raise OptionError(f"the result would overwrite the recording {path}")
            taken[path] = audio


def _same_file(path: Path, other: str) -> bool:
    return path.exists() and os.path.exists(other) and path.samefile(other)


def make_output_dir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"output_dir {folder} is a file, not a folder") from error
    except OSError as error:
        raise OutputError(f"output_dir {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"output_dir {folder} cannot be written to")


def transcribe_one(
    model: Whisper, audio: str, args: argparse.Namespace, options: dict[str, Any]
) -> int:
    """Transcribes one recording into its files; a failure is reported and gives its exit code."""
    try:
        with progress_bar(args.verbose) as progress:
            stream = model.segments(audio, progress=progress, **options)
            write_segments(stream, audio, args)
    except WhisperCyError as error:
        complain(error if audio in str(error) else f"{audio}: {error}")
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception:
        traceback.print_exc()
        complain(f"{audio}: unexpected error, see above; please report it")
        return UNEXPECTED
    return 0


def write_segments(stream: SegmentStream, audio: str, args: argparse.Namespace) -> None:
    """The files are made after the first window: none for a recording that cannot be read."""
    from .languages import LANGUAGES
    from .writers import SegmentWriter

    first = next(stream, None)
    if args.verbose and stream.detected and stream.language:
        print(f"Detected language: {LANGUAGES[stream.language].title()}", flush=True)
    segments = stream if first is None else chain([first], stream)
    with SegmentWriter(args.output_format, args.output_dir, audio, stream.language) as writer:
        for segment in segments:
            writer.write(segment)
            if args.verbose:
                print_segment(segment)


def print_segment(segment: Segment) -> None:
    from .writers import format_timestamp

    start, end = format_timestamp(segment.start), format_timestamp(segment.end)
    print(f"[{start} --> {end}] {segment.text}", flush=True)


@contextmanager
def progress_bar(verbose: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A bar on standard error if that is a terminal which does not show the segments themselves."""
    if not sys.stderr.isatty() or (verbose and sys.stdout.isatty()):
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=0.0, bar_format=BAR_FORMAT, leave=False) as bar:

        def show(progress: Progress) -> None:
            bar.total, bar.n = progress.total, progress.done
            bar.refresh()

        yield show


# --- whisper-cy info, whisper-cy export ----------------------------------------------------------


def info_command(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{PROGRAM} info", description="Print the processor, kernels, threads and models."
    )
    parser.parse_args(arguments)
    for name, value in information():
        print(f"{name + ':':<15}{value}")
    return 0


def information() -> Iterator[tuple[str, str]]:
    import numpy

    from . import kernels, models, threads

    yield "whisper-cy", __version__
    yield "Python", f"{platform.python_version()}, numpy {numpy.__version__}"
    yield "processor", processor_name()
    yield "levels", ", ".join(kernels.available_isas())
    yield "level in use", kernels.isa()
    yield "threads", str(threads.default_threads())
    yield "default model", models.default_model()
    found = list(local_models())
    for name, path in found:
        yield "model", f"{name} in {path}"
    if not found:
        yield "model", "none here: names are downloaded from the Hugging Face Hub"


def local_models() -> Iterator[tuple[str, Path]]:
    """Name and path of every model that loads without a network."""
    from .errors import ModelError
    from .models import available_models, resolve

    for name in available_models():
        with suppress(ModelError):
            yield name, resolve(name, local_files_only=True)


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def export_command(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog=f"{PROGRAM} export",
        description="Write a model, from any format it can be read in, as a Hugging Face folder.",
    )
    parser.add_argument("model", help="name of a model or path of its weights")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--model_dir", metavar="DIR", help="where to keep downloads")
    parser.add_argument(
        "--local_files_only",
        type=true_or_false,
        default=False,
        metavar="BOOL",
        help="never use the network (False)",
    )
    args = parser.parse_args(arguments)
    from .export import save_hugging_face
    from .models import resolve
    from .weights import load_checkpoint

    path = resolve(args.model, args.model_dir, args.local_files_only)
    save_hugging_face(load_checkpoint(path), args.out)
    return 0

"""A recording in any format -> blocks of mono samples at the recording's own rate.

path, '-', bytes or file object -> a real file -> soundfile, else PyAV -> channels averaged
-> checked to be finite. One block is in memory at a time.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from .errors import AudioError, OptionError

if TYPE_CHECKING:
    import soundfile

Array = npt.NDArray[np.float32]

BLOCK_FRAMES = 16384
LOUDEST = 1e9  # beyond it a window's power leaves the range of float32
# FFmpeg also knows playlists, which open further files and addresses, and pictures and text.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,mp3,ogg,flac,wav,w64,aiff,au,caf,avi,flv,"
    "mpegts,mpeg,amr,ac3,eac3,dts,ape,wv,tta"
)
TIMED_CONTAINERS = ("mov", "asf")  # whose stated duration is the audio's own


# --- sources -------------------------------------------------------------------------------------


def open_file(source: object) -> tuple[str, IO[bytes]]:
    """path, '-', bytes or binary file object -> (name for messages, seekable unbuffered file)."""
    if isinstance(source, str) and source == "-":
        return "standard input", _copied(sys.stdin.buffer, "standard input")
    if isinstance(source, (str, os.PathLike)):
        return _open_path(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the bytes given", _copied(io.BytesIO(source), "the bytes given")
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else "the file object given"
        return name, _copied(source, name)
    raise OptionError(
        f"audio is a {type(source).__name__}: give a path, '-', bytes, a binary file object, "
        "or a NumPy array of 16 kHz mono samples"
    )


def _open_path(path: str | os.PathLike[str]) -> tuple[str, IO[bytes]]:
    name = os.fspath(path)
    try:
        file = open(name, "rb", buffering=0)  # noqa: SIM115 - the caller closes it
    except FileNotFoundError:
        raise AudioError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{name}: is a folder, not a recording") from None
    except PermissionError:
        raise AudioError(f"{name}: may not be read (permission denied)") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"{name}: cannot be opened ({error})") from None
    if file.seekable():
        return name, _checked_not_empty(file, name)
    with file:
        return name, _copied(file, name)


def _copied(stream: Any, name: str) -> IO[bytes]:
    """What is left of a stream, in a temporary file: libsndfile and FFmpeg seek."""
    if isinstance(stream.read(0), str):
        raise OptionError(f"{name}: is opened as text; open it in binary mode ('rb')")
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    try:
        # writes through a buffered twin: an unbuffered file may take less than it is given
        with os.fdopen(os.dup(file.fileno()), "wb") as writer:
            shutil.copyfileobj(stream, writer, 1 << 20)
    except OSError as error:
        file.close()
        raise AudioError(
            f"{name}: cannot be copied to {tempfile.gettempdir()} to be decoded ({error})"
        ) from None
    return _checked_not_empty(file, name)


def _checked_not_empty(file: IO[bytes], name: str) -> IO[bytes]:
    if file.seek(0, os.SEEK_END) == 0:
        file.close()
        raise AudioError(f"{name}: is empty")
    file.seek(0)
    return file


# --- decoders ------------------------------------------------------------------------------------


def mono(block: Array) -> Array:
    """(n, channels) -> (n,), the mean of the channels."""
    n_channels = block.shape[1]
    if n_channels == 1:
        return block.reshape(-1)
    total = block[:, 0] + block[:, 1]  # by columns: NumPy is slow at means over short rows
    for channel in range(2, n_channels):
        total += block[:, channel]
    total /= np.float32(n_channels)
    return total


def check_finite(block: npt.NDArray[Any], name: str, start: int, rate: int) -> None:
    """block (n,), whose first sample is number `start` of the recording -> AudioError where bad."""
    fit = np.abs(block) <= LOUDEST
    if not fit.all():
        bad = int(np.argmin(fit))
        raise AudioError(
            f"{name}: the sample at {(start + bad) / rate:.4f} s is {block[bad]}, "
            f"not a number between -{LOUDEST:.0e} and {LOUDEST:.0e}"
        )


class SoundFileDecoder:
    """WAV, FLAC, Ogg, MP3, AIFF and whatever else libsndfile reads."""

    def __init__(self, sound: soundfile.SoundFile, name: str) -> None:
        # Where a file is seekable, soundfile seeks to where it is after every read. In an MP3 that
        # loses the bits kept from earlier frames: wrong sound, and complaints on standard error.
        sound.seekable = lambda: False
        self.sound = sound
        self.name = name
        self.rate: int = sound.samplerate
        # libsndfile says 2^63 - 1 where a FLAC stream does not tell its length
        known = sound.frames < 1 << 48
        self.declared = sound.frames / self.rate if known else None
        self.damaged = _shorter_than_its_header(sound.extra_info)

    def blocks(self) -> Iterator[Array]:
        """Blocks (n,); each is valid until the next is asked for."""
        import soundfile

        buffer = np.empty((BLOCK_FRAMES, self.sound.channels), np.float32)
        while True:
            buffer.fill(np.nan)
            try:
                block = self.sound.read(out=buffer)
            except soundfile.LibsndfileError:
                # libsndfile does not tell how much of the block came before the error
                block = buffer[: int(np.argmax(np.isnan(buffer[:, 0])))]
                self.damaged = self.damaged or self.declared is not None
                yield mono(block)
                return
            if not len(block):
                return
            yield mono(block)

    def close(self) -> None:
        self.sound.close()


def _shorter_than_its_header(log: str) -> bool:
    """Whether libsndfile met fewer bytes of samples than the header promises.

    A program that writes to a pipe cannot know the length and promises 2 GiB or more.
    """
    promise = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be \d+\)", log)
    return promise is not None and int(promise[1]) < 0x7FFF0000


class AvDecoder:
    """M4A, MP4, WebM, WMA, AAC and the other CONTAINERS, by FFmpeg."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        import av

        self.name = name
        self.damaged = False
        # ValueError: the format changes in the middle, which a resampler does not follow
        self._errors = (av.FFmpegError, ValueError)
        try:
            self._container = av.open(
                cast(BinaryIO, file),
                "r",
                options={"format_whitelist": CONTAINERS},
                metadata_errors="ignore",
            )
        except av.FFmpegError as error:
            raise AudioError(f"{name}: is not a recording that can be read") from error
        self._stream = next(iter(self._container.streams.audio), None)
        self._planes = self._decoded(av.AudioResampler(format="fltp"))
        first = next(self._planes, None)
        if first is None:
            self.close()
            raise AudioError(f"{name}: holds no audio that can be decoded")
        self.rate: int = first[0]
        self._first = first[1]
        self.declared = self._declared()

    def _declared(self) -> float | None:
        stream = self._stream
        timed = self._container.format.name.startswith(TIMED_CONTAINERS)
        if stream is None or not timed or stream.duration is None or stream.time_base is None:
            return None
        return float(stream.duration * stream.time_base)

    def _decoded(self, to_planes: Any) -> Iterator[tuple[int, Array]]:
        """(rate, (channels, n)) frame by frame; packets that do not decode are passed over."""
        if self._stream is None:
            return
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                for frame in packet.decode():
                    for planes in to_planes.resample(frame):
                        yield planes.sample_rate, planes.to_ndarray()
            except self._errors:
                self.damaged = True

    def blocks(self) -> Iterator[Array]:
        """Blocks (n,) of BLOCK_FRAMES or a little more: a codec's own frames are small."""
        gathered, n_gathered = [mono(self._first.T)], self._first.shape[1]
        for _, planes in self._planes:
            if n_gathered >= BLOCK_FRAMES:
                yield np.concatenate(gathered)
                gathered, n_gathered = [], 0
            gathered.append(mono(planes.T))
            n_gathered += planes.shape[1]
        yield np.concatenate(gathered)

    def close(self) -> None:
        self._container.close()


Decoder = SoundFileDecoder | AvDecoder


def open_decoder(file: IO[bytes], name: str) -> Decoder:
    """A recording's decoder, libsndfile's where it can; AudioError where none can read it."""
    import soundfile

    try:
        return SoundFileDecoder(soundfile.SoundFile(file.fileno(), closefd=False), name)
    except soundfile.LibsndfileError as error:
        unknown = error.code == 1  # SF_ERR_UNRECOGNISED_FORMAT
        detail = error.error_string.strip().rstrip(".")
    file.seek(0)
    try:
        return AvDecoder(file, name)
    except ImportError:
        if unknown:
            raise AudioError(
                f"{name}: is not WAV, FLAC, Ogg, MP3 or AIFF; if it is M4A, MP4, WebM, WMA or AAC: "
                'pip install "whisper-cy[av]"'
            ) from None
    except AudioError:
        if unknown:
            raise
    raise AudioError(f"{name}: is damaged or cut short at its beginning ({detail})") from None


def decoded_blocks(decoder: Decoder) -> Iterator[Array]:
    """Blocks (n,) at the decoder's rate, finite; AudioError where there are none.

    A recording that is damaged or ends before its header says gives what decodes, and a warning.
    """
    n_samples = 0
    for block in decoder.blocks():
        check_finite(block, decoder.name, n_samples, decoder.rate)
        n_samples += len(block)
        yield block
    warn_if_damaged(decoder, n_samples)


def warn_if_damaged(decoder: Decoder, n_samples: int) -> None:
    """n_samples: how many decoded, at the decoder's rate. A warning where that is not all; an
    AudioError where it is none."""
    seconds = n_samples / decoder.rate
    # an MP3's or MP4's stated duration counts what the encoder added at either end
    short = decoder.declared is not None and seconds < 0.99 * decoder.declared - 1
    incomplete = decoder.damaged or short
    if n_samples == 0:
        why = "is cut short: nothing decodes" if incomplete else "holds no samples"
        raise AudioError(f"{decoder.name}: {why}")
    if incomplete:
        warnings.warn(
            f"{decoder.name}: is damaged or cut short; the {seconds:.1f} s that decode are used",
            stacklevel=2,
        )

"""A recording as float32 mono samples at 16 kHz, read by ranges.

Memory does not grow with the recording: arrays and uncompressed 16 kHz files are read in place,
everything else is decoded once, resampled block by block and kept in a temporary file.
"""

from __future__ import annotations

import abc
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .decode import (
    Array,
    SoundFileDecoder,
    check_finite,
    decoded_blocks,
    mono,
    open_decoder,
    open_file,
    warn_if_damaged,
)
from .errors import AudioError, OptionError

SAMPLE_RATE = 16000
SPOOL_BYTES = 32 << 20  # about 8 minutes; what is longer goes to disk
CHECK_BLOCK = 1 << 16

AudioSource = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any]

# formats and sample types in which libsndfile finds any sample by its number alone
IN_PLACE_FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF"}
IN_PLACE_TYPES = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32"}


class Samples(abc.ABC):
    """n_samples of 16 kHz mono; at least one. Belongs to one call; closed with its `with` block."""

    n_samples: int

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> Array:
        """Samples [start, stop), 0 <= start <= stop <= n_samples -> (stop - start,)."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back files; the samples cannot be read any more."""

    def __enter__(self) -> Samples:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ArraySamples(Samples):
    """A caller's array (n,) of 16 kHz mono: float32, float64, or int16 of which 32768 is 1."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        if array.ndim != 1:
            raise OptionError(
                f"audio: an array of shape {array.shape}; give 16 kHz mono samples of shape (n,)"
            )
        if array.dtype not in (np.float32, np.float64, np.int16):
            raise OptionError(
                f"audio: an array of {array.dtype}; give float32 between -1 and 1, float64 or int16"
            )
        if not array.size:
            raise AudioError("audio: the array holds no samples")
        for start in range(0, array.size, CHECK_BLOCK):
            check_finite(array[start : start + CHECK_BLOCK], "audio", start, SAMPLE_RATE)
        self.n_samples = array.size
        self._array = array

    def read(self, start: int, stop: int) -> Array:
        part = self._array[start:stop]
        scale = np.float32(32768 if part.dtype == np.int16 else 1)
        samples: Array = part.astype(np.float32, copy=False)
        return samples if scale == 1 else samples / scale

    def close(self) -> None:
        """The array stays the caller's."""


class FileSamples(Samples):
    """An uncompressed 16 kHz file, read where it lies."""

    def __init__(self, decoder: SoundFileDecoder, resources: contextlib.ExitStack) -> None:
        self.n_samples = decoder.sound.frames
        self._sound = decoder.sound
        self._name = decoder.name
        self._resources = resources

    def read(self, start: int, stop: int) -> Array:
        self._sound.seek(start)
        block = mono(self._sound.read(stop - start, dtype="float32", always_2d=True))
        if len(block) < stop - start:
            raise AudioError(f"{self._name}: became shorter while it was read")
        return block

    def close(self) -> None:
        self._resources.close()


class SpooledSamples(Samples):
    """Blocks of 16 kHz mono, written to a temporary file as they come."""

    def __init__(self, blocks: Iterable[Array]) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        self.n_samples = 0
        try:
            for block in blocks:
                self._append(block)
        except BaseException:
            self.close()
            raise

    def _append(self, block: Array) -> None:
        try:
            self._file.write(block.data)
        except OSError as error:
            raise AudioError(
                f"{tempfile.gettempdir()}: the decoded sound cannot be kept there ({error})"
            ) from None
        self.n_samples += len(block)

    def read(self, start: int, stop: int) -> Array:
        self._file.seek(start * 4)
        return np.frombuffer(self._file.read((stop - start) * 4), np.float32)

    def close(self) -> None:
        self._file.close()


def open_audio(source: AudioSource, check: Callable[[], None] | None = None) -> Samples:
    """path, '-' (standard input), bytes, binary file object or samples (n,) at 16 kHz -> Samples.

    AudioError where it cannot be read. `check` is called now and then while a file is decoded and
    may raise, to cancel.
    """
    if hasattr(source, "__array__") and not isinstance(source, (bytes, memoryview)):
        return ArraySamples(np.asarray(source))
    samples: Samples
    with contextlib.ExitStack() as stack:
        name, file = open_file(source)
        stack.enter_context(file)
        decoder = open_decoder(file, name)
        stack.callback(decoder.close)
        if isinstance(decoder, SoundFileDecoder) and _lies_ready(decoder):
            warn_if_damaged(decoder, decoder.sound.frames)
            samples = FileSamples(decoder, stack.pop_all())
        else:
            blocks = resampled(decoded_blocks(decoder), decoder.rate)
            samples = SpooledSamples(_checking(blocks, check))
    return samples


def _lies_ready(decoder: SoundFileDecoder) -> bool:
    sound = decoder.sound
    return (
        sound.samplerate == SAMPLE_RATE
        and sound.format in IN_PLACE_FORMATS
        and sound.subtype in IN_PLACE_TYPES
        and sound.frames > 0
    )


def _checking(blocks: Iterable[Array], check: Callable[[], None] | None) -> Iterator[Array]:
    for block in blocks:
        if check is not None:
            check()
        yield block


def resampled(blocks: Iterable[Array], rate: int) -> Iterator[Array]:
    """Mono blocks at `rate` -> mono blocks at 16 kHz; at least one sample where there was one."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    n_samples = 0
    for block in blocks:
        part = stream.resample_chunk(block)
        n_samples += len(part)
        yield part
    part = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    # a few samples at a high rate are less than one at 16 kHz
    yield part if n_samples + len(part) else np.zeros(1, np.float32)

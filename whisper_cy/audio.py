"""Samples -> log-mel spectrograms with OpenAI's numbers.

samples (n,) at 16 kHz -> frames of 400, 160 apart, centred, the start mirrored -> mel power
-> log10 -> nothing below the whole recording's maximum - 8 -> (x + 4) / 4
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from . import kernels
from .samples import SAMPLE_RATE, AudioSource, Samples, open_audio
from .threads import default_threads

__all__ = [
    "CHUNK_LENGTH",
    "HOP_LENGTH",
    "N_FFT",
    "N_FRAMES",
    "N_SAMPLES",
    "SAMPLE_RATE",
    "AudioSource",
    "LogMel",
    "Samples",
    "load_audio",
    "log_mel_spectrogram",
    "mel_filters",
    "open_audio",
    "pad_or_trim",
]

Array = npt.NDArray[np.float32]

N_FFT = 400
HOP_LENGTH = 160
CHUNK_LENGTH = 30  # seconds
N_SAMPLES = CHUNK_LENGTH * SAMPLE_RATE
N_FRAMES = N_SAMPLES // HOP_LENGTH

BLOCK_FRAMES = 2 * N_FRAMES  # of the pass that looks for the maximum: 4 MB of samples
MARGIN = N_FFT // 2  # samples of a frame before its centre


def load_audio(source: AudioSource) -> Array:
    """path, '-', bytes, binary file object or 16 kHz samples (n,) -> float32 mono 16 kHz (n,)."""
    with open_audio(source) as samples:
        return samples.read(0, samples.n_samples)


def pad_or_trim(array: Array, length: int = N_SAMPLES, *, axis: int = -1) -> Array:
    """array with `length` elements along axis: the first ones, then zeros where it has fewer."""
    present = array.shape[axis]
    if present >= length:
        return array.take(np.arange(length), axis=axis)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, length - present)
    return np.pad(array, widths)


# --- the transform's constants -------------------------------------------------------------------


def mel_to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Slaney's mel scale: linear to 1000 Hz, which is 15 mel, then a factor of 6.4 in 27 mel."""
    return np.where(mel < 15, mel * (200 / 3), 1000 * 6.4 ** ((mel - 15) / 27))


@functools.lru_cache
def mel_filters(n_mels: int) -> Array:
    """(n_mels, 201) triangles over the bins of 0 to 8000 Hz, even in mel, of equal area."""
    top = 15 + 27 * np.log(8) / np.log(6.4)  # 8000 Hz
    edges = mel_to_hertz(np.linspace(0, top, n_mels + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters = (triangles * 2 / (high - low)).astype(np.float32)
    filters.setflags(write=False)
    return filters


@functools.lru_cache
def _plan(n_mels: int) -> kernels.MelPlan:
    angle = 2 * np.pi * np.arange(N_FFT) / N_FFT
    window = (0.5 - 0.5 * np.cos(angle)).astype(np.float32)
    roots = np.stack([np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)
    return kernels.MelPlan(window, roots, mel_filters(n_mels))


# --- spectrograms --------------------------------------------------------------------------------


def _scaled(power: Array, maximum: float) -> Array:
    """log10 power (n_frames, n_mels) -> the encoder's input (n_mels, n_frames)."""
    scaled: Array = np.maximum(power, np.float32(maximum - 8.0)).T
    scaled += np.float32(4.0)
    scaled /= np.float32(4.0)
    return scaled


def log_mel_spectrogram(
    audio: AudioSource, n_mels: int = 80, padding: int = 0, *, threads: int | None = None
) -> Array:
    """A recording or 16 kHz samples (n,), `padding` zeros after them -> (n_mels, n_frames)."""
    padded = np.pad(load_audio(audio), (0, padding))
    n_frames = len(padded) // HOP_LENGTH
    if n_frames == 0:
        return np.empty((n_mels, 0), np.float32)
    mirrored = np.pad(padded, MARGIN, mode="reflect")
    power = kernels.log_mel(mirrored, _plan(n_mels), n_frames, threads=threads or default_threads())
    return _scaled(power, float(power.max()))


class LogMel:
    """The log-mel spectrogram of a recording and 30 s of zeros after it, made window by window.

    The same numbers as of the whole at once: the recording's maximum is found first, in a pass over
    it which calls `check`, where given, block by block and lets it raise.
    """

    def __init__(
        self,
        samples: Samples,
        n_mels: int = 80,
        threads: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.n_mels = n_mels
        self.content_frames = samples.n_samples // HOP_LENGTH
        self.n_frames = self.content_frames + N_FRAMES
        self._samples = samples
        self._threads = threads or default_threads()
        self._kept = np.empty((0, n_mels), np.float32)
        self._maximum = self._find_maximum(check or (lambda: None))

    def window(self, seek: int, n_frames: int) -> Array:
        """Frames [seek, seek + n_frames), fewer at the end of the padding -> (n_mels, frames)."""
        stop = min(seek + n_frames, self.n_frames)
        return _scaled(self._power(seek, max(seek, stop)), self._maximum)

    def _find_maximum(self, check: Callable[[], None]) -> float:
        # the last of these frames lies in the padding, all zeros; all frames after it equal it
        looked_at = -(-(self._samples.n_samples + MARGIN) // HOP_LENGTH) + 1
        maximum = -np.inf
        for start in range(0, looked_at, BLOCK_FRAMES):
            check()
            power = self._power(start, min(start + BLOCK_FRAMES, looked_at))
            maximum = max(maximum, float(power.max()))
        if looked_at <= BLOCK_FRAMES:
            self._kept = power
        return maximum

    def _power(self, start: int, stop: int) -> Array:
        """log10 power of frames [start, stop) -> (frames, n_mels)."""
        if stop <= len(self._kept):
            return self._kept[start:stop]
        part = self._samples_of(start, stop)
        return kernels.log_mel(part, _plan(self.n_mels), stop - start, threads=self._threads)

    def _samples_of(self, start: int, stop: int) -> Array:
        """Samples under frames [start, stop); what is missing at the end is padding."""
        n_samples = self._samples.n_samples
        first, after = start * HOP_LENGTH - MARGIN, stop * HOP_LENGTH + MARGIN
        part = self._samples.read(min(max(first, 0), n_samples), min(after, n_samples))
        if first >= 0:
            return np.ascontiguousarray(part)
        mirror = pad_or_trim(self._samples.read(0, min(MARGIN + 1, n_samples)), MARGIN + 1)
        return np.concatenate([mirror[-first:0:-1], part])

"""Reading recordings of every kind, bad ones included, and OpenAI's log-mel of them."""

from __future__ import annotations

import builtins
import io
import os
import subprocess
import sys
import tempfile
import threading
import warnings

import numpy as np
import pytest
import reference
import soundfile
from conftest import DATA, speech

from whisper_cy import audio, kernels
from whisper_cy.errors import AudioError, OptionError

RATE = audio.SAMPLE_RATE


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32) * 0.1


def tone(seconds, rate, channels=1):
    """A 440 Hz tone, louder in every further channel -> (n, channels)."""
    wave = np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return (wave[:, None] * np.arange(1, channels + 1) * 0.1).astype(np.float32)


def write(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


def refused(source, *words, error=AudioError):
    """The one line `source` is refused with."""
    with pytest.raises(error) as caught:
        audio.load_audio(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# --- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_mels", (80, 128))
@pytest.mark.parametrize("n_frames", (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 600))
def test_kernel_equals_its_twin(level, n_frames, n_mels):
    samples = noise(160 * n_frames + 240)
    expected = reference.log_mel(samples, audio.mel_filters(n_mels), n_frames)
    for threads in (1, 2):
        actual = kernels.log_mel(samples, audio._plan(n_mels), n_frames, threads=threads)
        assert actual.shape == (n_frames, n_mels)
        if n_frames:
            # a bin's rounding error is about 1e-7 of the frame's largest amplitude
            power, wanted = 10.0**actual, 10.0**expected
            assert np.abs(power - wanted).max() <= 1e-6 * wanted.max()
            assert np.median(np.abs(actual - expected)) <= 1e-6


def test_kernel_gives_a_frame_the_same_numbers_in_any_company(level):
    samples = noise(160 * 64 + 240)
    plan = audio._plan(80)
    whole = kernels.log_mel(samples, plan, 64)
    for start, stop in ((0, 1), (1, 18), (5, 64), (63, 64)):
        part = samples[160 * start : 160 * stop + 240]
        assert np.array_equal(kernels.log_mel(part, plan, stop - start), whole[start:stop])
    assert np.array_equal(kernels.log_mel(samples, plan, 64, threads=2), whole)


def test_kernel_takes_what_is_missing_at_the_end_as_zero(level):
    samples, plan = noise(1000), audio._plan(80)
    padded = np.concatenate([samples, np.zeros(10000, np.float32)])
    assert np.array_equal(kernels.log_mel(samples, plan, 40), kernels.log_mel(padded, plan, 40))
    silent = kernels.log_mel(np.zeros(0, np.float32), plan, 3)
    assert np.allclose(silent, -10, atol=1e-6)


def test_kernel_finds_a_pure_tone():
    filters = audio.mel_filters(80)
    bin_of_tone = 25  # 1000 Hz
    samples = np.sin(2 * np.pi * 1000 * np.arange(400) / RATE).astype(np.float32)
    power = 10.0 ** kernels.log_mel(samples, audio._plan(80), 1)[0]
    assert np.argmax(power) == np.argmax(filters[:, bin_of_tone])


@pytest.mark.parametrize(
    "window, roots, filters",
    [((399,), (400, 2), (80, 201)), ((400,), (400,), (80, 201)), ((400,), (400, 2), (80, 200))],
)
def test_plan_refuses_other_shapes(window, roots, filters):
    arrays = [np.zeros(shape, np.float32) for shape in (window, roots, filters)]
    with pytest.raises(ValueError, match="MelPlan"):
        kernels.MelPlan(*arrays)


# --- mel filters and spectrograms ----------------------------------------------------------------


def test_mel_filters_are_triangles_of_slaneys_scale():
    filters = audio.mel_filters(80)
    assert filters.shape == (80, 201) and filters.dtype == np.float32
    assert not filters.flags.writeable
    assert filters.min() == 0 and (filters.max(axis=1) > 0).all()
    centres = filters.argmax(axis=1) * 40  # Hz
    assert (np.diff(centres) >= 0).all()
    wide = filters[60]
    assert np.isclose(wide.sum() * 40, 1, rtol=0.1)  # area


@pytest.mark.parametrize("n_mels", (80, 128))
def test_mel_filters_equal_openais(n_mels):
    whisper = pytest.importorskip("whisper", reason="openai-whisper is not installed")
    path = os.path.join(os.path.dirname(whisper.__file__), "assets", "mel_filters.npz")
    with np.load(path) as stored:
        assert np.allclose(audio.mel_filters(n_mels), stored[f"mel_{n_mels}"], rtol=0, atol=1e-7)


def openais_spectrogram(samples, n_mels, padding):
    whisper = pytest.importorskip("whisper.audio", reason="openai-whisper is not installed")
    return whisper.log_mel_spectrogram(samples.copy(), n_mels, padding).numpy()


@pytest.mark.parametrize("n_mels", (80, 128))
@pytest.mark.parametrize("padding", (0, 1000, audio.N_SAMPLES))
@pytest.mark.parametrize("n_samples", (201, 399, 400, 16000, 16077, 100001))
def test_spectrogram_equals_openais(n_samples, padding, n_mels):
    samples = noise(n_samples)
    expected = openais_spectrogram(samples, n_mels, padding)
    actual = audio.log_mel_spectrogram(samples, n_mels, padding)
    assert actual.shape == expected.shape and actual.dtype == np.float32
    assert np.abs(actual - expected).max(initial=0) <= 1e-4


def test_spectrogram_of_real_speech_equals_openais():
    recordings = speech()
    if not recordings:
        pytest.skip("no folder of recordings: set WHISPER_CY_TEST_SPEECH")
    pytest.importorskip("av", reason="PyAV is not installed")
    for recording in recordings:
        samples = audio.load_audio(recording.path)
        assert len(samples) > RATE
        for n_mels in (80, 128):
            expected = openais_spectrogram(samples, n_mels, audio.N_SAMPLES)
            actual = audio.log_mel_spectrogram(samples, n_mels, audio.N_SAMPLES, threads=1)
            assert np.abs(actual - expected).max() <= 1e-4, recording.id


def test_spectrogram_of_silence():
    spectrogram = audio.log_mel_spectrogram(np.zeros(RATE, np.float32))
    assert np.allclose(spectrogram, -1.5)  # (log10(1e-10) + 4) / 4


def test_spectrogram_of_less_than_a_hop_has_no_frames():
    assert audio.log_mel_spectrogram(noise(159)).shape == (80, 0)
    assert audio.log_mel_spectrogram(noise(160)).shape == (80, 1)


@pytest.mark.parametrize("n_samples", (1, 100, 200, 201, 16000, 16077, 480000, 2 * 10**6))
def test_windows_are_slices_of_the_whole(n_samples):
    samples = noise(n_samples, seed=n_samples)
    samples[n_samples // 2 :] *= 1e-3  # the clamp has something to do
    whole = audio.log_mel_spectrogram(samples, padding=audio.N_SAMPLES)
    with audio.open_audio(samples) as source:
        log_mel = audio.LogMel(source, 80, threads=1)
        assert log_mel.content_frames == n_samples // 160 == whole.shape[1] - audio.N_FRAMES
        for seek in (0, 1, 2, 777, log_mel.content_frames, log_mel.content_frames + 2990):
            window = log_mel.window(seek, 3000)
            assert window.dtype == np.float32
            assert np.array_equal(window, whole[:, seek : seek + 3000])
        assert log_mel.window(log_mel.n_frames + 5, 10).shape == (80, 0)
        assert log_mel.window(3, 0).shape == (80, 0)


def test_the_pass_for_the_maximum_can_be_cancelled():
    def cancel():
        raise KeyboardInterrupt

    with audio.open_audio(noise(RATE)) as source, pytest.raises(KeyboardInterrupt):
        audio.LogMel(source, 80, check=cancel)


def test_one_recording_serves_several_threads():
    samples = noise(5 * RATE)
    expected = audio.log_mel_spectrogram(samples, threads=1)
    found = []
    workers = [
        threading.Thread(target=lambda: found.append(audio.log_mel_spectrogram(samples, threads=2)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 and all(np.array_equal(each, expected) for each in found)


def test_pad_or_trim():
    assert audio.pad_or_trim(np.ones(3)).shape == (480000,)
    assert audio.pad_or_trim(np.ones(3), 5).tolist() == [1, 1, 1, 0, 0]
    assert audio.pad_or_trim(np.ones((2, 7)), 5).shape == (2, 5)
    assert audio.pad_or_trim(np.ones((2, 7)), 3, axis=0).shape == (3, 7)


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format, subtype, error",
    [
        ("WAV", "PCM_16", 4e-5),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 1e-2),
        ("WAVEX", "PCM_16", 4e-5),
        ("RF64", "PCM_16", 4e-5),
        ("W64", "PCM_16", 4e-5),
        ("AIFF", "PCM_16", 4e-5),
        ("AU", "PCM_16", 4e-5),
        ("CAF", "PCM_16", 4e-5),
        ("FLAC", "PCM_16", 4e-5),
        ("OGG", "VORBIS", 5e-2),
        ("OGG", "OPUS", 5e-2),
        ("MP3", "MPEG_LAYER_III", 5e-2),
    ],
)
def test_formats(tmp_path, format, subtype, error):
    if subtype not in soundfile.available_subtypes(format):
        pytest.skip(f"this libsndfile writes no {format} {subtype}")
    wave = tone(2, RATE)
    path = write(tmp_path / "sound", wave, format=format, subtype=subtype)
    with audio.open_audio(path) as samples:
        assert abs(samples.n_samples - len(wave)) <= (0 if error < 0.05 else 1200)
        whole = samples.read(0, samples.n_samples)
        assert whole.dtype == np.float32
        assert np.abs(whole[4000:28000] - wave[4000:28000, 0]).max() <= error
        assert np.array_equal(samples.read(5000, 7000), whole[5000:7000])
        assert samples.read(10, 10).shape == (0,)
    assert np.array_equal(audio.load_audio(path.read_bytes()), whole)


@pytest.mark.parametrize("subtype", ("PCM_16", "FLOAT"))
@pytest.mark.parametrize("channels", (1, 2, 3, 8))
@pytest.mark.parametrize("rate", (8000, 11025, RATE, 44100, 192000))
def test_any_rate_and_channel_count_become_16_khz_mono(tmp_path, rate, channels, subtype):
    path = write(tmp_path / "sound.wav", tone(1.5, rate, channels), rate, subtype=subtype)
    samples = audio.load_audio(path)
    assert samples.dtype == np.float32 and abs(len(samples) - 1.5 * RATE) <= 1
    expected = tone(1.5, RATE)[:, 0] * (channels + 1) / 2
    middle = slice(4000, 20000)
    assert np.abs(samples[middle] - expected[middle]).max() <= 1e-3


@pytest.mark.parametrize("rate, channels", ((RATE, 1), (RATE, 8), (192000, 1), (8000, 2)))
def test_one_sample(tmp_path, rate, channels):
    path = write(tmp_path / "sound.wav", np.full((1, channels), 0.5), rate)
    samples = audio.load_audio(path)
    assert 1 <= len(samples) <= 2 and np.isfinite(samples).all()
    assert audio.log_mel_spectrogram(path, padding=audio.N_SAMPLES).shape == (80, 3000)


def test_silence(tmp_path):
    path = write(tmp_path / "sound.wav", np.zeros((RATE, 2)))
    assert not audio.load_audio(path).any()
    with audio.open_audio(path) as samples:
        assert np.allclose(audio.LogMel(samples).window(0, 100), -1.5)


def test_the_projects_own_recordings():
    for path in sorted(DATA.glob("*.flac")):
        samples = audio.load_audio(path)
        assert 2 * RATE < len(samples) < 15 * RATE and np.abs(samples).max() > 0.1
        assert path.with_suffix(".txt").read_text("utf-8").strip()


def with_av(path, container, codec, samples, rate):
    """samples (n,) written by FFmpeg."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        to_stream = av.AudioResampler(
            stream.codec_context.format, "mono", rate, stream.codec_context.frame_size or 1024
        )
        for source in (frame, None):
            for piece in to_stream.resample(source):
                file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "container, codec, rate",
    [
        ("mp4", "aac", 44100),
        ("adts", "aac", 22050),
        ("webm", "libopus", 48000),
        ("asf", "wmav2", 44100),
    ],
)
def test_formats_of_the_av_extra(tmp_path, container, codec, rate):
    wave = tone(2, rate)[:, 0]
    path = with_av(tmp_path / "sound", container, codec, wave, rate)
    expected = tone(2, RATE)[:, 0]
    samples = audio.load_audio(path)
    assert abs(len(samples) - len(expected)) <= 0.1 * RATE
    # encoders may add a delay that not every container tells of: compare the level
    middle = slice(4000, 28000)
    assert np.isclose(samples[middle].std(), expected[middle].std(), rtol=0.05)
    with open(path, "rb") as file:
        assert np.array_equal(audio.load_audio(file), samples)


def test_without_the_av_extra_the_message_names_it(tmp_path, monkeypatch):
    path = with_av(tmp_path / "talk.m4a", "mp4", "aac", tone(1, 44100)[:, 0], 44100)
    monkeypatch.setitem(sys.modules, "av", None)
    refused(path, "talk.m4a", 'pip install "whisper-cy[av]"')
    (tmp_path / "cut.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    message = refused(tmp_path / "cut.wav", "cut.wav", "damaged or cut short")
    assert "pip" not in message


# --- sources -------------------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path):
    return write(tmp_path / "sound.flac", tone(1, 22050, 2), 22050)


class OneWay(io.RawIOBase):
    """A stream that cannot seek, as a socket's."""

    def __init__(self, data):
        self.stream = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.stream.readinto(buffer)


def test_file_objects_and_bytes(sound):
    expected = audio.load_audio(str(sound))
    data = sound.read_bytes()
    assert np.array_equal(audio.load_audio(data), expected)
    assert np.array_equal(audio.load_audio(bytearray(data)), expected)
    assert np.array_equal(audio.load_audio(io.BytesIO(data)), expected)
    assert np.array_equal(audio.load_audio(io.BufferedReader(OneWay(data))), expected)
    with open(sound, "rb") as file:
        assert np.array_equal(audio.load_audio(file), expected)
        assert not file.closed


def test_standard_input(sound):
    program = (
        "from whisper_cy.audio import load_audio\n"
        "samples = load_audio('-')\n"
        "print(len(samples), float(samples.std()))"
    )
    with open(sound, "rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=-1) as pipe:
        done = subprocess.run(
            [sys.executable, "-c", program], stdin=pipe.stdout, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    length, level = done.stdout.split()
    expected = audio.load_audio(sound)
    assert int(length) == len(expected) and np.isclose(float(level), expected.std())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipe(tmp_path, sound):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(sound.read_bytes()))
    writer.start()
    assert np.array_equal(audio.load_audio(pipe), audio.load_audio(sound))
    writer.join()


def test_arrays_are_used_in_place(tmp_path):
    samples = noise(1000)
    samples.setflags(write=False)
    with audio.open_audio(samples) as source:
        assert source.n_samples == 1000
        assert np.shares_memory(source.read(10, 20), samples)
    with audio.open_audio(samples[::2]) as source:
        assert np.array_equal(audio.LogMel(source).window(0, 3)[:, :0], np.empty((80, 0)))


def test_arrays_of_other_types():
    samples = noise(1000)
    whole = np.round(samples * 32768).astype(np.int16)
    assert np.array_equal(audio.load_audio(samples.astype(np.float64)), samples)
    assert np.array_equal(audio.load_audio(whole), whole / np.float32(32768))


def test_a_torch_tensor_is_an_array():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    samples = noise(1000)
    assert np.array_equal(audio.load_audio(torch.from_numpy(samples)), samples)


# --- what cannot be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array, error, words",
    [
        (np.zeros((2, 5), np.float32), OptionError, "(2, 5)"),
        (np.float32(1), OptionError, "()"),
        (np.zeros(5, np.int64), OptionError, "int64"),
        (np.zeros(5, np.float16), OptionError, "float16"),
        (np.array(["a"]), OptionError, "<U1"),
        (np.zeros(0, np.float32), AudioError, "holds no samples"),
    ],
)
def test_arrays_that_are_not_mono_samples(array, error, words):
    refused(array, words, error=error)


@pytest.mark.parametrize("source", (None, 3, [0.0, 1.0], object()))
def test_things_that_are_not_audio(source):
    refused(source, "audio is a ", error=OptionError)


def test_a_file_opened_as_text(sound):
    refused(io.StringIO("words"), "text", error=OptionError)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf, 1e30))
@pytest.mark.parametrize("rate", (RATE, 44100))
def test_samples_that_are_no_numbers(tmp_path, bad, rate):
    samples = tone(3, rate, 2)
    samples[2 * rate, 1] = bad
    path = write(tmp_path / "bad.wav", samples, rate, subtype="FLOAT")
    refused(path, "bad.wav", "2.0000 s")
    refused(np.array([0, bad]), "0.0001 s")


def test_missing_file(tmp_path):
    refused(tmp_path / "none.wav", "none.wav", "no such file")
    refused("", "no such file")


def test_folder(tmp_path):
    refused(tmp_path, str(tmp_path), "is a folder")


def test_impossible_name():
    refused("a\0b", "cannot be opened")
    refused("a" * 5000, "cannot be opened")


def test_no_permission(sound, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", denied)
    refused(sound, "sound.flac", "permission denied")


def test_empty_file(tmp_path):
    (tmp_path / "empty.mp3").write_bytes(b"")
    refused(tmp_path / "empty.mp3", "empty.mp3", "is empty")
    refused(b"", "is empty")
    refused(io.BytesIO(), "is empty")


@pytest.mark.parametrize("format", ("WAV", "AIFF"))
def test_no_samples(tmp_path, format):
    path = write(tmp_path / "none", np.zeros(0), format=format)
    refused(path, "none", "holds no samples")


@pytest.mark.parametrize(
    "content",
    (
        b"These are words, not sound.\n" * 200,
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        bytes(5000),
        b"x",
        b"#EXTM3U\n#EXTINF:10,\n/etc/hostname\n",
        b"ID3",
    ),
)
def test_not_audio(tmp_path, content):
    path = tmp_path / "notes.mp3"
    path.write_bytes(content)
    refused(path, "notes.mp3")


@pytest.mark.parametrize("format", ("WAV", "FLAC", "OGG", "AIFF"))
def test_cut_in_the_header(tmp_path, format):
    data = write(tmp_path / "whole", tone(1, RATE), format=format).read_bytes()
    path = tmp_path / "cut"
    for length in (3, 11, 21, 30):
        path.write_bytes(data[:length])
        refused(path, "cut")


def test_an_mp3_decodes_alike_in_blocks_and_at_once(tmp_path, capfd):
    """soundfile's own reads in blocks seek in between, which breaks an MP3's sound."""
    path = write(tmp_path / "tone.mp3", tone(6, RATE), format="MP3")
    at_once, _ = soundfile.read(path, dtype="float32")
    assert np.abs(audio.load_audio(path) - at_once).max() < 1e-5
    assert np.abs(at_once - tone(6, RATE)[:, 0]).max() < 0.02
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rate", (RATE, 44100))
@pytest.mark.parametrize("format", ("WAV", "FLAC", "AIFF", "MP3"))
def test_cut_in_the_middle_gives_what_decodes_and_a_warning(tmp_path, format, rate):
    wave = noise(6 * rate)
    data = write(tmp_path / "whole", wave, rate, format=format).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match=r"cut: is damaged or cut short; the \d\.\d s"):
        samples = audio.load_audio(path)
    assert 2.5 * RATE < len(samples) < 3.2 * RATE
    whole = audio.load_audio(tmp_path / "whole")
    same = len(samples) - 2000
    assert np.abs(samples[:same] - whole[:same]).max() < 1e-6


def test_a_cut_mp4_is_read_or_refused_in_one_line(tmp_path):
    path = with_av(tmp_path / "whole.m4a", "mp4", "aac", noise(3 * 44100), 44100)
    cut = tmp_path / "cut.m4a"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # its index is at the end
    refused(cut, "cut.m4a")
    matroska = with_av(tmp_path / "whole.webm", "webm", "libopus", noise(3 * 48000), 48000)
    cut.write_bytes(matroska.read_bytes()[: matroska.stat().st_size // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert RATE < len(audio.load_audio(cut)) < 2 * RATE


@pytest.mark.parametrize("size", (0xFFFFFFFF, 0x7FFFFFFF))
def test_a_wav_written_to_a_pipe_does_not_know_its_length(tmp_path, size):
    data = bytearray(write(tmp_path / "pipe.wav", tone(1, RATE)).read_bytes())
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    (tmp_path / "pipe.wav").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(audio.load_audio(tmp_path / "pipe.wav")) == RATE


def test_a_flac_that_does_not_tell_its_length(tmp_path):
    data = bytearray(write(tmp_path / "sound.flac", noise(50001)).read_bytes())
    assert data[:4] == b"fLaC"
    data[21] &= 0xF0  # the 36 bits of STREAMINFO's sample count
    data[22:26] = bytes(4)
    (tmp_path / "stream.flac").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = audio.load_audio(tmp_path / "stream.flac")
    assert np.array_equal(samples, audio.load_audio(tmp_path / "sound.flac"))


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write(tmp_path / "sound.wav", noise(10 * RATE))
    with audio.open_audio(path) as samples:
        os.truncate(path, 1000)
        with pytest.raises(AudioError, match="became shorter"):
            samples.read(5 * RATE, 6 * RATE)


def test_decoding_can_be_cancelled_and_leaves_nothing_open(sound):
    def cancel():
        raise KeyboardInterrupt

    before = open_files()
    with pytest.raises(KeyboardInterrupt):
        audio.open_audio(sound, check=cancel)
    for source in (sound, sound.read_bytes()):
        audio.load_audio(source)
    assert open_files() == before


def open_files():
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0


class FullDisk(io.BytesIO):
    def write(self, data):
        raise OSError(28, "No space left on device")


def test_a_full_disk(sound, monkeypatch):
    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", lambda **options: FullDisk())
    refused(sound, tempfile.gettempdir(), "No space left")


# --- cost ----------------------------------------------------------------------------------------


def test_importing_loads_no_decoder():
    program = (
        "import sys, whisper_cy.audio\n"
        "heavy = {'soundfile', 'soxr', 'av', 'scipy', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


MEMORY_PROGRAM = """
import resource, sys
from whisper_cy import audio

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

with audio.open_audio(sys.argv[1]) as samples:
    audio.LogMel(samples, 80, threads=1).window(0, 3000)
short = peak()
with audio.open_audio(sys.argv[2]) as samples:
    log_mel = audio.LogMel(samples, 80, threads=1)
    for seek in range(0, log_mel.content_frames, 3000):
        log_mel.window(seek, 3000)
print(samples.n_samples, peak() - short)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("rate, subtype", ((RATE, "PCM_16"), (8000, "PCM_U8")))
def test_memory_does_not_grow_with_the_recording(tmp_path, rate, subtype):
    """20 minutes are 77 MB of samples: in place nothing is kept, else at most the spool's 32 MB."""
    minute = noise(60 * rate)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate, 1, subtype) as file:
        for _ in range(20):
            file.write(minute)
    write(tmp_path / "short.wav", minute[: 30 * rate], rate, subtype=subtype)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, tmp_path / "short.wav", tmp_path / "long.wav"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    n_samples, growth = map(int, done.stdout.split())
    assert n_samples == 20 * 60 * RATE
    assert growth < (12 if rate == RATE else 50)  # MB

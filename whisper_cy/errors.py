"""Every error a user can cause, each with the exit code the command line gives for it."""


class WhisperCyError(Exception):
    """Base of the package's errors: one line that names the file or argument and what to do."""

    exit_code = 1


class OptionError(WhisperCyError, ValueError):
    """An option or argument has a value it cannot have."""

    exit_code = 2


class AudioError(WhisperCyError, ValueError):
    """A recording cannot be read as audio."""

    exit_code = 3


class ModelError(WhisperCyError):
    """A model was not found, or its weights are damaged, incomplete or not Whisper's."""

    exit_code = 4


class OutputError(WhisperCyError):
    """A result cannot be written where it was asked for."""

    exit_code = 5


class Cancelled(WhisperCyError):  # noqa: N818 - what users know from asyncio and futures
    """The caller cancelled the call; what was yielded before stays valid."""

    exit_code = 6

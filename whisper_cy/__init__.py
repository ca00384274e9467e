"""Fast, exact Whisper speech recognition on CPUs."""

__version__ = "0.1.0"

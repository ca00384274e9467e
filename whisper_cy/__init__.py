"""Fast, exact Whisper speech recognition on CPUs.

    model = whisper_cy.load_model("tiny.en")
    print(model.transcribe("talk.mp3").text)

Importing the package loads nothing heavy: its names load their modules on first use.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Whisper, load_model
    from .errors import (
        AudioError,
        Cancelled,
        ModelError,
        OptionError,
        OutputError,
        WhisperCyError,
    )
    from .models import available_models
    from .result import Segment, Transcript, Word
    from .transcribe import Progress, SegmentStream, transcribe

__version__ = "0.1.0"

_HOME = {
    "Whisper": "api",
    "load_model": "api",
    "AudioError": "errors",
    "Cancelled": "errors",
    "ModelError": "errors",
    "OptionError": "errors",
    "OutputError": "errors",
    "WhisperCyError": "errors",
    "available_models": "models",
    "Segment": "result",
    "Transcript": "result",
    "Word": "result",
    "Progress": "transcribe",
    "SegmentStream": "transcribe",
    "transcribe": "transcribe",
}

__all__ = [
    "AudioError",
    "Cancelled",
    "ModelError",
    "OptionError",
    "OutputError",
    "Progress",
    "Segment",
    "SegmentStream",
    "Transcript",
    "Whisper",
    "WhisperCyError",
    "Word",
    "__version__",
    "available_models",
    "load_model",
    "transcribe",
]


class _Package(ModuleType):
    """Keeps `whisper_cy.transcribe` the function once the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "transcribe" and isinstance(value, ModuleType):
            value = value.transcribe
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

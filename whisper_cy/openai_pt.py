"""OpenAI's .pt: torch.save of {"dims": the sizes, "model_state_dict": name -> tensor}."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .dims import Dims
from .stored import MappedFile, Source, Stored
from .torch_file import Tensor, TorchFile


def read_openai(file: MappedFile, opened: TorchFile) -> Source:
    root = opened.root
    if not is_openai(root):
        raise file.error("not an OpenAI checkpoint: it has no dims and model_state_dict")
    missing = [field.name for field in fields(Dims) if field.name not in root["dims"]]
    if missing:
        raise file.error(f"not a Whisper checkpoint: dims has no {missing[0]}")
    dims = Dims(**{field.name: root["dims"][field.name] for field in fields(Dims)})
    return Source(dims, state_dict(file, opened, root["model_state_dict"]))


def is_openai(root: Any) -> bool:
    return (
        isinstance(root, dict)
        and isinstance(root.get("dims"), dict)
        and isinstance(root.get("model_state_dict"), dict)
    )


def state_dict(file: MappedFile, opened: TorchFile, named: Any) -> dict[str, Stored]:
    """Name in the file -> tensor, of a dict that must hold nothing else."""
    for name, tensor in named.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise file.error(f"not a Whisper checkpoint: {str(name)[:60]} is not a tensor")
    return {name: opened.stored(tensor) for name, tensor in named.items()}

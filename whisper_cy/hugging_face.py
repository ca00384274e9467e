"""Hugging Face's Whisper folder: config.json, and tensors in safetensors or torch.save files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .dims import Dims
from .errors import ModelError
from .openai_pt import state_dict
from .safetensors_file import is_safetensors, read_safetensors
from .stored import MappedFile, Source, Stored, read_alignment_heads, read_json_object
from .torch_file import TorchFile, is_torch

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
"""The tensors' file, the first that is there; either may be shards listed by NAME.index.json."""

_CONFIG_NAMES = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}

# OpenAI's names and Hugging Face's of what a block holds, and of what lies outside the blocks.
_IN_BLOCK = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "cross_attn.query": "encoder_attn.q_proj",
    "cross_attn.key": "encoder_attn.k_proj",
    "cross_attn.value": "encoder_attn.v_proj",
    "cross_attn.out": "encoder_attn.out_proj",
    "cross_attn_ln": "encoder_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}
_OUTSIDE = {
    "encoder.positional_embedding": "encoder.embed_positions.weight",
    "decoder.positional_embedding": "decoder.embed_positions.weight",
    "decoder.token_embedding.weight": "decoder.embed_tokens.weight",
    "encoder.ln_post.weight": "encoder.layer_norm.weight",
    "encoder.ln_post.bias": "encoder.layer_norm.bias",
    "decoder.ln.weight": "decoder.layer_norm.weight",
    "decoder.ln.bias": "decoder.layer_norm.bias",
}
_IN_LAYER = {own: name for name, own in _IN_BLOCK.items()}
_OUTSIDE_LAYERS = {own: name for name, own in _OUTSIDE.items()} | {
    "lm_head.weight": "proj_out.weight"
}


def hugging_face_name(name: str) -> str:
    """OpenAI's name -> WhisperForConditionalGeneration's."""
    match = re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if match and match[3] in _IN_BLOCK:
        return f"model.{match[1]}.layers.{match[2]}.{_IN_BLOCK[match[3]]}.{match[4]}"
    return "model." + _OUTSIDE.get(name, name)


def openai_name(own: str) -> str:
    """Hugging Face's name, of the whole model or of its body -> OpenAI's; an unknown name stays."""
    own = own.removeprefix("model.")
    match = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)", own)
    if match and match[3] in _IN_LAYER:
        return f"{match[1]}.blocks.{match[2]}.{_IN_LAYER[match[3]]}.{match[4]}"
    return _OUTSIDE_LAYERS.get(own, own)


def weights_files(folder: Path) -> list[Path]:
    """The files of a folder's tensors; empty when there are none, ModelError when some lack."""
    for name in WEIGHTS_FILES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _shards(index)
    return []


def _shards(index: Path) -> list[Path]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} is damaged: it has no weight_map")
    names = set(weight_map.values()) if all(map(_is_file_name, weight_map.values())) else {""}
    if "" in names:
        raise ModelError(f"{index} is damaged: its weight_map must give file names")
    missing = [name for name in sorted(names) if not (index.parent / name).is_file()]
    if missing:
        raise ModelError(f"{index.parent / missing[0]} is missing; {index.name} lists it")
    return [index.parent / name for name in sorted(names)]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not set("/\\\0") & set(name)


def read_hugging_face(config: Path, files: Iterable[MappedFile]) -> Source:
    dims = _read_dims(config)
    tensors: dict[str, Stored] = {}
    for file in files:
        tensors |= {openai_name(own): tensor for own, tensor in _read_tensors(file).items()}
    heads = read_alignment_heads(config.with_name("generation_config.json"))
    return Source(dims, tensors, heads, hugging_face_name)


def _read_tensors(file: MappedFile) -> dict[str, Stored]:
    if is_torch(file):
        opened = TorchFile(file)
        if not isinstance(opened.root, dict):
            raise file.error("not a model: it does not hold tensors by name")
        return state_dict(file, opened, opened.root)
    if is_safetensors(file):
        return read_safetensors(file)
    raise file.error("cut short or damaged: neither safetensors nor a file of torch.save")


def _read_dims(path: Path) -> Dims:
    if not path.is_file():
        raise ModelError(f"{path} is missing: the sizes of a Hugging Face model are in it")
    config = read_json_object(path)
    if config.get("model_type") != "whisper":
        raise ModelError(
            f"{path}: not a Whisper model, its model_type is {_short(config, 'model_type')}"
        )
    missing = [own for own in _CONFIG_NAMES.values() if own not in config]
    if missing:
        raise ModelError(f"{path} is damaged: it has no {missing[0]}")
    for key, usual in (("activation_function", "gelu"), ("scale_embedding", False)):
        if config.get(key, usual) != usual:
            raise ModelError(f"{path}: {key} is {_short(config, key)}, in Whisper it is {usual}")
    return Dims(**{name: config[own] for name, own in _CONFIG_NAMES.items()})


def _short(config: dict[str, Any], key: str) -> str:
    return repr(config.get(key))[:60]

"""A checkpoint -> a Hugging Face folder that transformers, and everything built on it, loads.

The sizes and settings in three JSON files, model.safetensors, and the tokenizer's files.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from . import vocabulary
from .dims import Dims
from .errors import OutputError
from .hugging_face import WEIGHTS_FILES, hugging_face_name
from .safetensors_file import write_safetensors
from .tokenizer import Tokenizer, get_tokenizer
from .weights import CT2_FILE, Checkpoint

_END = "<|endoftext|>"
_MAX_INITIAL_TIMESTAMP_INDEX = 50  # 1 second, in steps of 0.02

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "normalizer.json",
)


def save_hugging_face(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes the folder, which must not exist or be empty; whole or not at all.

    The tensors keep their numbers and dtype. A tokenizer that lies beside the source is kept too.
    """
    folder = Path(folder)
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise OutputError(f"{folder} exists already: give the name of a new or empty folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            written = Path(temporary, "written")
            written.mkdir()
            _write(checkpoint, written)
            if folder.exists():
                folder.rmdir()
            written.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    dims = checkpoint.dims
    tokenizer = get_tokenizer(dims.is_multilingual, num_languages=dims.num_languages)
    documents = {
        "config.json": _config(checkpoint, tokenizer),
        "generation_config.json": _generation_config(checkpoint, tokenizer),
        "preprocessor_config.json": _preprocessor_config(dims),
    } | _tokenizer_documents(tokenizer)
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(_merges(tokenizer)) + "\n", encoding="utf-8"
    )
    _copy_tokenizer(Path(checkpoint.source), folder)
    write_safetensors(folder / "model.safetensors", checkpoint.tensors, hugging_face_name)


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    markers = [tokenizer.sot, tokenizer.translate, tokenizer.transcribe]
    markers += [tokenizer.sot_lm, tokenizer.sot_prev, tokenizer.no_speech]
    return {
        "bos_token_id": tokenizer.eot,
        "eos_token_id": tokenizer.eot,
        "pad_token_id": tokenizer.eot,
        "decoder_start_token_id": tokenizer.sot,
        "suppress_tokens": sorted({*tokenizer.non_speech_tokens, *markers}),
        "begin_suppress_tokens": [*tokenizer.encode(" "), tokenizer.eot],
    }


def _config(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    dims = checkpoint.dims
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "torch_dtype": checkpoint.tensors["decoder.token_embedding.weight"].dtype.name,
        "num_mel_bins": dims.n_mels,
        "max_source_positions": dims.n_audio_ctx,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "vocab_size": dims.n_vocab,
        "max_target_positions": dims.n_text_ctx,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "num_hidden_layers": dims.n_audio_layer,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "use_cache": True,
    } | _special_ids(tokenizer)


def _generation_config(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    dims = checkpoint.dims
    document = _special_ids(tokenizer) | {
        "is_multilingual": dims.is_multilingual,
        "max_initial_timestamp_index": _MAX_INITIAL_TIMESTAMP_INDEX,
        "max_length": dims.n_text_ctx,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
        "return_timestamps": False,
    }
    if checkpoint.alignment_heads is not None:
        document["alignment_heads"] = [list(pair) for pair in checkpoint.alignment_heads]
    if dims.is_multilingual:
        codes = tokenizer.all_language_codes
        document["lang_to_id"] = {
            f"<|{code}|>": tokenizer.to_language_token(code) for code in codes
        }
        document["task_to_id"] = {
            "transcribe": tokenizer.transcribe,
            "translate": tokenizer.translate,
        }
    return document


def _preprocessor_config(dims: Dims) -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": dims.n_mels,
        "sampling_rate": 16000,
        "n_fft": 400,
        "hop_length": 160,
        "chunk_length": 30,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def _tokenizer_documents(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer in the forms that old and new transformers read, but for merges.txt."""
    vocab = _vocab(tokenizer)
    added = [_added_token(tokenizer, text) for text in tokenizer.special_tokens]
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), _END)
    special = [token["content"] for token in added if token["special"]]
    return {
        "vocab.json": vocab,
        "added_tokens.json": {t["content"]: t["id"] for t in added if t["content"] != _END},
        "special_tokens_map.json": ends | {"additional_special_tokens": special},
        "tokenizer_config.json": ends
        | {
            "tokenizer_class": "WhisperTokenizer",
            "processor_class": "WhisperProcessor",
            "additional_special_tokens": special,
            "added_tokens_decoder": {
                str(token["id"]): {key: token[key] for key in token if key != "id"}
                for token in added
            },
            "add_prefix_space": False,
            "errors": "replace",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1024,
            "return_attention_mask": False,
        },
        "tokenizer.json": _tokenizer_json(tokenizer, vocab, added),
    }


def _vocab(tokenizer: Tokenizer) -> dict[str, int]:
    """Token in GPT-2's printable form -> id; the end of text counts as one of them."""
    printable = vocabulary.printable_bytes()
    tokens = vocabulary.token_bytes(tokenizer.vocabulary_name)
    vocab = {"".join(printable[byte] for byte in token): id_ for id_, token in enumerate(tokens)}
    return vocab | {_END: tokenizer.eot}


def _merges(tokenizer: Tokenizer) -> list[str]:
    printable = vocabulary.printable_bytes()
    pairs = vocabulary.merges(tokenizer.vocabulary_name)
    return [" ".join("".join(printable[byte] for byte in part) for part in pair) for pair in pairs]


def _added_token(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    id_ = tokenizer.special_tokens[text]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": text, **flags, "special": id_ < tokenizer.timestamp_begin}


def _tokenizer_json(
    tokenizer: Tokenizer, vocab: dict[str, int], added: list[dict[str, Any]]
) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    start = [_special_piece("<|startoftranscript|>", 0), _special_piece("<|notimestamps|>", 0)]
    sequences = [{"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB")]
    used = ("<|startoftranscript|>", "<|notimestamps|>", _END)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level | {"add_prefix_space": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*start, sequences[0], _special_piece(_END, 0)],
            "pair": [*start, *sequences, _special_piece(_END, 1)],
            "special_tokens": {
                text: {"id": text, "ids": [tokenizer.special_tokens[text]], "tokens": [text]}
                for text in used
            },
        },
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": _merges(tokenizer),
        },
    }


def _special_piece(text: str, type_id: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": type_id}}


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """A fine-tune's own tokenizer takes the place of Whisper's, whose files are a whole set."""
    beside = source if source.is_dir() else source.parent
    if not source.is_dir() and source.name not in (CT2_FILE, *WEIGHTS_FILES):
        return
    if (beside / "tokenizer.json").is_file():
        for name in _TOKENIZER_FILES:
            if (beside / name).is_file():
                shutil.copyfile(beside / name, folder / name)

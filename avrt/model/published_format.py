"""Writing a student as a folder in the published layout of its family, without talker and vocoder.

The folder has the published names of weights and settings, which transformers from 4.57 on and vLLM read, and holds
nothing about the machine that wrote it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from avrt.config.library_warnings import silenced_transformers
from avrt.families.family import StudentFamily
from avrt.families.registry import family_of_config, family_of_path, family_of_processor

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, as in the published folders."""

TOKENIZER_SETTINGS = (
    "add_bos_token",
    "add_prefix_space",
    "added_tokens_decoder",
    "bos_token",
    "clean_up_tokenization_spaces",
    "eos_token",
    "errors",
    "model_max_length",
    "pad_token",
    "processor_class",
    "split_special_tokens",
    "tokenizer_class",
    "unk_token",
)


def write_published_format(thinker: Any, processor: Any, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write thinker and processor into the existing `folder`, and check that transformers can read it.

    Raises:
        ValueError: a weight is NaN or infinite, or the written folder does not fit the model.
        OSError: it cannot be written, because the disk is full for example.
    """
    _write_weights(_published_weights(thinker), folder, shard_bytes)  # first: a full disk fails here
    _write_json(folder / "config.json", published_config(thinker))
    _write_json(folder / "generation_config.json", _generation_config(processor))
    _write_processor(processor, folder)
    check_readable(folder)


# ---- weights --------------------------------------------------------------------------------------------------------


def is_tied(thinker: Any) -> bool:
    """Whether the head and the token embeddings share one matrix."""
    return thinker.lm_head.weight is thinker.get_input_embeddings().weight


def _published_weights(thinker: Any) -> Iterator[tuple[str, Tensor]]:
    tied, family = is_tied(thinker), family_of_config(thinker.config)
    for name, weight in thinker.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            yield from family.published_weights(name, weight.detach())


def _write_weights(weights: Iterator[tuple[str, Tensor]], folder: Path, shard_bytes: int) -> None:
    """Write the weights in files of at most `shard_bytes`; each is in host memory only while it is written."""
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, weight in weights:
        if weight.is_floating_point() and not torch.isfinite(weight).all():
            raise ValueError(
                f"the student's weight {name} is NaN or infinite, so it is not exported; export an earlier checkpoint"
            )
        if shards[-1] and size + weight.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = weight
        size += weight.nbytes
        total += weight.nbytes
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for file, shard in zip(names, shards, strict=True):
        _save({name: weight.cpu().contiguous() for name, weight in shard.items()}, folder / file)
    if len(shards) > 1:
        index = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _save(weights: dict[str, Tensor], file: Path) -> None:
    try:
        save_file(weights, file, {"format": "pt"})
    except SafetensorError as error:  # not an OSError, even for a full disk
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(file)) from error


def check_readable(folder: Path) -> None:
    """Check that transformers reads the folder's settings and the names and shapes of its weights.

    Raises:
        ValueError: a weight is missing, unknown, or of another shape than in the settings.
    """
    with silenced_transformers():
        _, info = family_of_path(str(folder)).thinker_class.from_pretrained(
            folder,
            device_map="meta",
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info[what]:
            found = sorted(str(entry) for entry in info[what])
            raise ValueError(
                f"{folder}: transformers cannot read the written student: {what} {found[0]} and {len(found) - 1} more; "
                "this is a bug in avrt"
            )


# ---- settings -------------------------------------------------------------------------------------------------------


def published_config(thinker: Any) -> dict[str, Any]:
    """`config.json` of the whole model without a talker, with the keys of both old and new readers."""
    dtype = str(thinker.dtype).removeprefix("torch.")
    tied = is_tied(thinker)
    config = thinker.config
    family = family_of_config(config)
    content = _own_settings(family, config) | {"architectures": [family.thinker_class.__name__]}
    text = _own_settings(family, config.text_config)
    text |= _rotary_settings(text.pop("rope_parameters"))
    vision = _own_settings(family, config.vision_config)
    if vision.get("rope_parameters") == type(config.vision_config)().rope_parameters:
        del vision["rope_parameters"]  # unknown to older readers
    parts = {"text_config": text, "vision_config": vision, "audio_config": _own_settings(family, config.audio_config)}
    content |= parts | {"tie_word_embeddings": tied, "torch_dtype": dtype}
    text |= {"tie_word_embeddings": tied, "torch_dtype": dtype}
    return {
        "architectures": [family.whole_class_name],
        "enable_audio_output": False,
        "enable_talker": False,
        "model_type": family.model_type,
        "thinker_config": content,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "transformers_version": transformers.__version__,
    }


def _own_settings(family: StudentFamily, config: PreTrainedConfig) -> dict[str, Any]:
    """The settings of a configuration that are specific to its model."""
    generic = {field.name for field in fields(PreTrainedConfig)}
    declared = {field.name for field in fields(config)} - generic
    kept = declared.union(("model_type",), family.undeclared.get(config.model_type, ()))
    return {name: value for name, value in sorted(config.to_dict().items()) if name in kept}


def _rotary_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings as published, for transformers 4 and 5; only 5 reads `rope_parameters`."""
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    scaling.setdefault("type", scaling.get("rope_type", "default"))
    return {"rope_scaling": scaling, "rope_theta": parameters["rope_theta"]}


def _generation_config(processor: Any) -> dict[str, Any]:
    """End tokens and padding only: servers use any sampling setting in this file as their default."""
    tokenizer = processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(list(family_of_processor(processor).end_tokens))
    return {
        "eos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
        "transformers_version": transformers.__version__,
    }


def _write_processor(processor: Any, folder: Path) -> None:
    processor.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    settings = {name: written[name] for name in TOKENIZER_SETTINGS if name in written}
    named = {
        name: str(getattr(processor.tokenizer, name)) for name in family_of_processor(processor).media_tokens.named
    }
    special = [str(token) for token in processor.tokenizer.extra_special_tokens if str(token) not in named.values()]
    # transformers 5 writes one list of all these, which transformers 4 cannot read; both read two lists.
    _write_json(file, settings | {"additional_special_tokens": special, "extra_special_tokens": named})


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")

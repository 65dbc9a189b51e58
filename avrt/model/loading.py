"""Loading a published or exported student: thinker and processor, from a hub id or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from avrt.config.remote_code import check_no_remote_code
from avrt.families.family import StudentFamily
from avrt.families.registry import family_of_path
from avrt.model.chat_template import chat_text
from avrt.model.weight_files import check_weight_files


def student_family(path: str, revision: str | None = None) -> StudentFamily:
    """The family of a student that is not loaded yet.

    Raises:
        ValueError: nothing of that name can be loaded, or no family has it.
    """
    source = _check_source(path)
    try:
        return family_of_path(source, revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"student.path: cannot load {path!r} ({_first_line(error)})") from error


def load_pretrained(path: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load the thinker (no talker, no vocoder) and its processor.

    Code in the folder is never run, and attention is always torch's own, whatever the folder's settings say.

    Args:
        path: hub id or local folder.
        revision: commit of the hub repository, or None for its newest.
        dtype: of the weights.

    Returns:
        The thinker and the processor of the student's family.

    Raises:
        ValueError: nothing of that name can be loaded, or its weights are incomplete.
    """
    source = _check_source(path)
    where: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    try:
        if Path(source).is_dir():
            check_no_remote_code(Path(source))
            check_weight_files(Path(source))
        family = family_of_path(source, revision)
        processor = family.processor_class.from_pretrained(source, **where)
        chat_text(processor, [{"role": "user", "content": [{"type": "text", "text": "?"}]}])
        thinker, info = family.thinker_class.from_pretrained(
            source,
            **where,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"student.path: cannot load {path!r}: it must be a hub id such as Qwen/Qwen2.5-Omni-7B or a folder with a "
            f"saved student ({_first_line(error)})"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:  # transformers has filled them with random numbers
        raise ValueError(
            f"student.path: {path!r} lacks {len(missing)} of the thinker's weights, for example {missing[0]!r}; it is "
            "incomplete, download or save it again"
        )
    if info["mismatched_keys"]:
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise ValueError(
            f"student.path: {path!r}: the weight {name!r} has shape {tuple(found)}, and config.json says "
            f"{tuple(expected)}; weights and config.json are of different models"
        )
    return thinker, processor


def _check_source(path: str) -> str:
    """Return `path` if it is an existing folder or has the form of a hub id."""
    if Path(path).is_dir():
        return path
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(
            f"student.path: {path!r} is neither a folder that exists nor a hub id of the form owner/name (for example "
            "Qwen/Qwen2.5-Omni-3B)"
        )
    return path


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

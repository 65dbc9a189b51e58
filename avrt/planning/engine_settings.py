"""What a plan needs to know of `model.rollout`."""

from __future__ import annotations

import inspect
from typing import Any

from avrt.families.registry import family_of_config
from avrt.planning.shapes import load_config
from avrt.rollout.choice import CLASSES
from avrt.rollout.vllm import VLLM
from avrt.rollout.vllm.arguments import check_family

VLLM_PACKAGE = "avrt.rollout.vllm."


def engine_settings(rollout: Any) -> dict[str, Any]:
    """The settings of a rollout engine that determine a run's cost; an engine of another package is elsewhere."""
    if rollout == "builtin":
        return {}
    if rollout == "vllm" or rollout["class_path"] == CLASSES["vllm"]:
        defaults = {parameter.name: parameter.default for parameter in inspect.signature(VLLM).parameters.values()}
        given = defaults if rollout == "vllm" else defaults | rollout.get("init_args", {})
        return {
            "engine": "in process",
            "engine_share": float(given["gpu_memory_utilization"]),
            "engine_sleeps": given["sleep_level"] > 0,
        }
    return {"engine": "elsewhere"}


def check_engine(rollout: Any, path: str) -> None:
    """Refuse what a run refuses: an engine of this project that does not compute what the student computes.

    Args:
        path: of the student.

    Raises:
        ValueError: names the setting.
    """
    chosen = CLASSES.get(rollout, rollout) if isinstance(rollout, str) else rollout["class_path"]
    if chosen.startswith(VLLM_PACKAGE):
        config, _ = load_config(path)
        check_family(family_of_config(config))

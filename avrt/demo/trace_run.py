"""The demo's traces, through the same pipeline and protocol as the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avrt.demo.servers import AUDIO_MODEL, MERGE_MODEL, VISION_MODEL, serve_demo_models
from avrt.traces.config import StageConfig, TracesConfig, Variant
from avrt.traces.pipeline import run_traces


def demo_config(
    shards: str | Path, ledger: str | Path, output: str | Path, base_url: str, variant: Variant = "merged"
) -> TracesConfig:
    """The settings of a demo run against a server of `avrt.demo.servers`."""

    def stage(model: str) -> StageConfig:
        sampling = {"temperature": 0.0, "max_tokens": 256}
        return StageConfig(base_urls=[base_url], model=model, sampling=sampling, max_concurrency=8)

    return TracesConfig(
        shards=str(shards),
        ledger=str(ledger),
        output=str(output),
        vision=stage(VISION_MODEL),
        audio=stage(AUDIO_MODEL),
        merge=stage(MERGE_MODEL),
        split=None,
        variant=variant,
        val_share=None,
    )


def make_demo_traces(
    shards: str | Path, ledger: str | Path, output: str | Path, variant: Variant = "merged"
) -> dict[str, Any]:
    """Start the demo's models, run all four steps, stop them.

    Both splits of `shards` get traces and keep their split. The filter keeps about a quarter (both teachers have to
    guess right between two options); ``unfiltered`` keeps all, and here every one is right, because the merger can
    tell from the two descriptions.

    Returns:
        The statistics.
    """
    with serve_demo_models() as base_url:
        statistics = run_traces(demo_config(shards, ledger, output, base_url, variant))
    assert statistics is not None
    return statistics

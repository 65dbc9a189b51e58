"""Sets of traces in shards, and a server that judges them by words in their text.

A trace with the word FALSE is hallucinating, one with SHORT lacks information; teachers' replies likewise. In a
comparison the trace without such words wins, then trace A.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avrt.data.writer import ShardWriter
from avrt.judging.config import JudgeConfig, JudgeServerConfig
from avrt.sample import Clip, Sample
from tests.servers.scripted_server import Reply

OPTIONS = ("red fox", "grey owl", "brown bear", "white hare")


def make_sample(index: int, trace: str | None, teachers: dict[str, str] | None = None, audio: bool = True) -> Sample:
    generator = torch.Generator().manual_seed(index)
    clip = Clip(
        torch.randint(0, 256, (2, 3, 16, 24), generator=generator, dtype=torch.uint8),
        (0.0, 0.5),
        fps=2.0,
        waveform=torch.rand(1600, generator=generator) - 0.5 if audio else None,
        duration=1.0,
        width=24,
        height=16,
    )
    question = f"What is in clip number {index}?"
    sample = Sample(f"q{index:03d}", question, OPTIONS, index % 4, source=f"clip{index}", clip=clip, trace=trace)
    return replace(sample, teacher_traces=teachers or {})


def write_set(folder: Path, samples: list[Sample]) -> str:
    with ShardWriter(folder, image_format="png") as writer:
        for sample in samples:
            writer.write(sample)
    return str(folder)


def make_config(root: Path, url: str, sets: dict[str, str], **changes: Any) -> JudgeConfig:
    judge = changes.pop("judge", {})
    server = JudgeServerConfig(
        [url],
        model="m",
        sampling={"max_tokens": 64},
        max_concurrency=4,
        request_timeout_seconds=20,
        backoff_seconds=0.01,
        server_wait_seconds=20,
        **judge,
    )
    return JudgeConfig(sets, str(root / "ledger"), str(root / "out"), server, **changes)


def blocks(text: str) -> dict[str, str]:
    """The fenced texts of a prompt by tag."""
    found = re.findall(r"^<(\w+)>\n((?:> .*\n)+)</\1>$", text, re.MULTILINE)
    return {name: body.replace("> ", "") for name, body in found}


def verdict_of(trace: str) -> str:
    return "HALLUCINATING" if "FALSE" in trace else "MISSING_INFO" if "SHORT" in trace else "ACCURATE"


def judge_reply(text: str) -> dict[str, Any]:
    """A right reply to any of the three prompts."""
    shown = blocks(text)
    rest = {"confidence": 0.9, "explanation": "Because."}
    if "trace_a" in shown:
        verdicts = {letter: verdict_of(shown[f"trace_{letter}"]) for letter in "ab"}
        order = ["ACCURATE", "MISSING_INFO", "HALLUCINATING"]
        reply: dict[str, Any] = {
            "winner": "B" if order.index(verdicts["b"]) < order.index(verdicts["a"]) else "A",
            **rest,
        }
        for letter, verdict in verdicts.items():
            grounded = {f"trace_{letter}_{stream}_grounded": verdict == "ACCURATE" for stream in ("audio", "visual")}
            reply |= {f"trace_{letter}_verdict": verdict, **grounded}
        return reply
    if any(name.endswith("_teacher") for name in shown):
        false = [name for name in shown if name.endswith("_teacher") and "FALSE" in shown[name]]
        source = "MERGER" if not false else false[0].upper() if len(false) == 1 else "BOTH_TEACHERS"
        accurate = {f"{name}_accurate": name not in false for name in shown if name.endswith("_teacher")}
        claims = {"hallucinated_claims": ["a FALSE thing"], "source_per_claim": [source]}
        return {**claims, "hallucination_source": source, **accurate, "merger_faithful": source != "MERGER", **rest}
    verdict = verdict_of(shown["trace"])
    return {
        "verdict": verdict,
        "audio_grounded": "deaf" not in shown["trace"],
        "visual_grounded": verdict != "HALLUCINATING",
        "hallucinated_claims": ["a FALSE thing"] if verdict == "HALLUCINATING" else [],
        **rest,
    }


def answer(body: dict[str, Any], text: str, times: int) -> Reply:
    return Reply(json.dumps(judge_reply(text)))

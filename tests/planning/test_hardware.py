"""Measured speeds in place of assumed ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from avrt.cli import main
from avrt.planning.hardware import Hardware, override, read_measured

CONFIGS = Path(__file__).resolve().parents[2] / "cli_configs"
ALL = {
    "achieved_tflops": 400.0,
    "decoding_bandwidth_gb": 2000.0,
    "launch_us": 5.0,
    "link_gb": 50.0,
    "pageable_link_gb": 8.0,
    "host_bandwidth_gb": 300.0,
    "overhead_bytes": 3 * 2**30,
}


def write(folder: Path, **content: Any) -> Path:
    file = folder / "gpu.json"
    device = {"name": "NVIDIA X", "memory_gb": 80.0, "torch": "2.14", "cuda": "13.0"}
    file.write_text(json.dumps({"schema": 1, "device": device, "parts": {}, "hardware": ALL} | content))
    return file


def test_everything_measured(tmp_path: Path) -> None:
    hardware = read_measured(write(tmp_path))
    assert (hardware.flops, hardware.decoding_bandwidth) == (400e12, 2000e9)
    assert hardware.transfer(100e9, pinned=True) == pytest.approx(2.0)
    assert hardware.transfer(80e9, pinned=False) == pytest.approx(10.0)
    assert (hardware.launch_us, hardware.host_bandwidth_gb, hardware.overhead_bytes) == (5.0, 300.0, 3 * 2**30)
    assert len(hardware.measured) == len(ALL)
    assert hardware.device == "NVIDIA X"


def test_a_missing_key_leaves_the_assumption(tmp_path: Path) -> None:
    hardware = read_measured(write(tmp_path, hardware={"launch_us": 5.0}))
    assert hardware.measured == ("launch_us",)
    assert hardware.flops == Hardware().flops == pytest.approx(989e12 * 0.35)
    assert read_measured(write(tmp_path, device=None)).device == "an unnamed device"


def test_options_override_measurements(tmp_path: Path) -> None:
    """A peak is not reached: it comes with the assumed share, not with that of a measured speed."""
    measured = read_measured(write(tmp_path))
    assert override(measured, {}) == measured
    other = override(measured, {"peak_tflops": 200.0, "link_gb": 1.0})
    assert other.flops == pytest.approx(200e12 * 0.35)
    assert other.decoding_bandwidth == 2000e9
    assert set(measured.measured) - set(other.measured) == {"peak_tflops", "link_gb"}
    assert override(measured, {"efficiency": 0.5}).flops == pytest.approx(989e12 * 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not valid JSON"),
        ("[]", "is not a file of benchmarks.gpu"),
        ('{"hardware": {}}', "is not a file of benchmarks.gpu"),
        ('{"schema": 1, "hardware": 3}', "is not a file of benchmarks.gpu"),
        ('{"schema": 2, "hardware": {}}', "is of schema 2, this version reads 1"),
        ('{"schema": 1, "hardware": {"link": 3}}', "hardware.link is not known"),
        ('{"schema": true, "hardware": {"link_gb": 25}}', "is of schema True, this version reads 1"),
        ('{"schema": 1, "hardware": {}}', "hardware is empty"),
        ('{"schema": 1, "hardware": {"link_gb": 25}, "device": {"miniature": true}}', "without a GPU"),
        ('{"schema": 1, "hardware": {"link_gb": 25}, "device": {"cuda_available": false}}', "without a GPU"),
        ('{"schema": 1, "hardware": {"link_gb": 0}}', "hardware.link_gb must be a number from 0.1 to 10000, got 0"),
        ('{"schema": 1, "hardware": {"achieved_tflops": 1e12}}', "hardware.achieved_tflops must be a number from 1"),
        ('{"schema": 1, "hardware": {"launch_us": %s}}' % ("9" * 400), "hardware.launch_us must be a number from"),
        ('{"schema": 1, "hardware": {"overhead_bytes": 0.5}}', "hardware.overhead_bytes must be a number from 1"),
        ('{"schema": 1, "hardware": {"link_gb": "25"}}', "hardware.link_gb must be a number"),
        ('{"schema": 1, "hardware": {"link_gb": true}}', "hardware.link_gb must be a number"),
        ('{"schema": 1, "hardware": {"link_gb": NaN}}', "hardware.link_gb must be a number"),
    ],
)
def test_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str) -> None:
    file = tmp_path / "wrong.json"
    if text is not None:
        file.write_text(text)
    assert main(["plan", "--config", str(CONFIGS / "grpo_7b.yaml"), "--measured", str(file)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("avrt: error: ")]
    assert str(file) in line
    assert message in line


def test_the_plan_says_what_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = ["plan", "--config", str(CONFIGS / "grpo_tiny.yaml")]
    file = write(tmp_path, hardware={"launch_us": 5.0, "link_gb": 50.0, "overhead_bytes": 123})
    assert main([*preset, "--measured", str(file), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["hardware"]["measured"] == ["launch_us", "link_gb", "overhead_bytes"]
    assert plan["device_bytes"]["overhead"] == 123
    assert main([*preset, "--measured", str(file)]) == 0
    assert "measured on NVIDIA X: launch us, link gb, overhead bytes; everything else is assumed" in (
        capsys.readouterr().out
    )
    assert main(preset) == 0
    assert "all speeds are assumed" in capsys.readouterr().out

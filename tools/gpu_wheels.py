"""Collects the wheels that ``python -m benchmarks.gpu`` needs on a machine without network: ``make gpu-wheels``.

That machine has Python 3.12 on x86-64 Linux, torch with a torchvision and torchaudio that match it, transformers, numpy
and lightning, each with what it needs itself. Everything else that the benchmark imports is here, at the versions of
`pyproject.toml`. TRL is included without pyarrow and pandas, which are large: where the machine lacks them, the
comparison with TRL is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = (
    "accelerate",
    "annotated-types",
    "av",
    "braceexpand",
    "cffi",
    "datasets",
    "dill",
    "einops",
    "hjson",
    "httpcore2",
    "httpx2",
    "jsonargparse",
    "markdown-it-py",
    "mdurl",
    "msgpack",
    "multiprocess",
    "ninja",
    "psutil",
    "py-cpuinfo",
    "pycparser",
    "pydantic",
    "pydantic-core",
    "pygments",
    "rich",
    "soundfile",
    "trl",
    "truststore",
    "typeshed-client",
    "typing-inspection",
    "webdataset",
    "xxhash",
)
BUILT = ("deepspeed",)
"""Published as source only; its operators are compiled on the machine when they are first used."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
             "manylinux_2_12_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "any")  # fmt: skip

LIMIT = 60_000_000


def pinned(constraints: list[str]) -> dict[str, str]:
    """Requirement by package name, from `pyproject.toml`'s constraints."""
    return {line.split("==")[0]: line.split(";")[0].strip() for line in constraints}


def main(folder: Path) -> None:
    """Fill the folder, or end with an error if it is larger than the limit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = pinned(project["tool"]["uv"]["constraint-dependencies"])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = ["--python-version", "3.12", "--implementation", "cp", "--only-binary", ":all:"]
    target += [word for platform in PLATFORMS for word in ("--platform", platform)]
    wanted = [pins[name] for name in PACKAGES]
    subprocess.run([*pip, "download", "--no-deps", "--dest", str(folder), *target, *wanted], check=True)  # noqa: S603
    built = [pins[name] for name in BUILT]
    environment = os.environ | {"DS_BUILD_OPS": "0"}
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), *built], check=True, env=environment)  # noqa: S603
    wheels = sorted(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels, {size / 1e6:.1f} MB in {folder}")  # noqa: T201
    if len(wheels) != len(wanted) + len(built):
        sys.exit(f"{folder}: {len(wheels)} wheels for {len(wanted) + len(built)} packages")
    if size > LIMIT:
        sys.exit(f"{folder}: {size / 1e6:.1f} MB are more than {LIMIT / 1e6:.0f} MB; remove a package from PACKAGES")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

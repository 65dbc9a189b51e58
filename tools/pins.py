"""Writes the end of `pyproject.toml`: an exact pin for every package that the project pulls in, from a fresh `uv.lock`.

`uv.lock` names the registry it was resolved at and stays out of the repository. These constraints give everybody the
same versions all the same, from whichever registry they use. Run it with ``make pins``.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# Written by `make pins`: every package, direct or not, at the version that the project is tested with. uv applies them
# whenever it resolves, so no lock file is needed. It reads constraints from this file only, not from a uv.toml.
[tool.uv]
"""


def pins(lock: dict) -> dict[str, str]:
    """Name to version of each package of a parsed `uv.lock`, the project itself left out.

    Where the resolution holds two versions for different Pythons, the older one is taken: it serves all of them.
    """
    versions: dict[str, str] = {}
    for package in lock["package"]:
        name, version = package["name"], package.get("version")
        if "editable" in package["source"] or version is None:
            continue
        known = versions.get(name)
        versions[name] = version if known is None else min(known, version, key=_order)
    return dict(sorted(versions.items()))


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def without_pins(project: str) -> str:
    """The text of a `pyproject.toml` up to the pins."""
    return project.partition(HEADER)[0].rstrip("\n") + "\n"


def main() -> None:
    """Reads `uv.lock` and writes the pins; with ``--clear`` removes them, so that a resolution is free of them."""
    file = ROOT / "pyproject.toml"
    project = without_pins(file.read_text(encoding="utf-8"))
    if "--clear" not in sys.argv[1:]:
        lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
        lines = [f'    "{name}=={version}",' for name, version in pins(lock).items()]
        project += "\n".join(["", HEADER + "constraint-dependencies = [", *lines, "]", ""])
    file.write_text(project, encoding="utf-8")


if __name__ == "__main__":
    main()

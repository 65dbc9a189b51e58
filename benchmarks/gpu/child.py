"""The process of one part: ``python -m benchmarks.gpu.child MODULE ARGUMENTS full|miniature FILE``.

A part's module has ``run(shape, device, **arguments)``, a generator of rows. A row is a flat dict of numbers and texts.
Three keys have a meaning: ``hardware`` (a dict) adds to the measured properties of the machine, ``passes: False`` makes
the part fail, and ``skipped`` holds the reason why a row has no figures. A part that cannot run here raises `Skipped`.

Every row is written as a line of JSON as soon as it is there, so a part that is killed keeps those that it has.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import FULL, MINIATURE, Skipped

OPTIONAL = ("trl", "datasets", "pandas", "pyarrow", "deepspeed", "triton")
"""Packages that some parts need and others do without."""


def main(module: str, arguments: str, shape: str, file: str) -> int:
    """Run the part; 0 if it ended by itself, also if it failed or was skipped."""
    with Path(file).open("a", encoding="utf-8") as lines:

        def write(entry: dict[str, Any]) -> None:
            lines.write(json.dumps(entry) + "\n")
            lines.flush()

        try:
            run = importlib.import_module(module).run
            device: Any = "cuda" if shape == "full" else "cpu"
            if "torch" in sys.modules:  # a part without it starts faster
                device = sys.modules["torch"].device(device)
            wrong = []
            for row in run(FULL if shape == "full" else MINIATURE, device, **json.loads(arguments)):
                write({"row": row})
                if row.get("passes") is False:
                    wrong.append(str(row.get("what", "a check")))
            write({"status": "failed", "reason": f"wrong: {'; '.join(wrong)}"} if wrong else {"status": "ok"})
        except Skipped as reason:
            write({"status": "skipped", "reason": str(reason)})
        except ImportError as error:
            traceback.print_exc()
            # A part needs a package that may be absent, or another version of one. Without any other package nothing
            # runs, and a result of nothing but skipped parts would look like a success.
            lacks = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in OPTIONAL
            write({"status": "failed" if lacks else "skipped", "reason": f"{type(error).__name__}: {error}"})
        except Exception as error:  # noqa: BLE001 -- the parent reports it, and other parts still run
            traceback.print_exc()
            first = (str(error).strip() or "no message").splitlines()[0]
            fits = type(error).__name__ != "OutOfMemoryError"  # torch's, which may not be imported here
            write({"status": "failed" if fits else "skipped", "reason": f"{type(error).__name__}: {first}"})
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Entry point of ``python -m avrt``.

Written for Python 3.6 and later, so that an old interpreter can report that it is too old.
"""

import sys

OLDEST_PYTHON = (3, 11)


def run() -> int:
    """Run the command line; returns the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        version = ".".join(map(str, sys.version_info[:2]))
        sys.stderr.write(
            f"avrt: error: {sys.executable} is Python {version}, and avrt needs 3.11 or later; in the source tree, "
            "run it with `uv run python -m avrt ...`\n"
        )
        return 2
    try:
        from avrt.interrupts import note_interrupts

        note_interrupts()
        from avrt.cli import main

        return main()
    except KeyboardInterrupt:  # before the command line can handle it
        sys.stderr.write("avrt: error: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())

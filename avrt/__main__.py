"""Entry point of ``python -m avrt``."""

import sys

from avrt.cli import main

if __name__ == "__main__":
    sys.exit(main())

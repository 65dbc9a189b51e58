"""The one place where other packages' noise is turned down, each with its reason."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Sets the environment and the filters; what the user has set already stays."""
    # The tokenizers' thread pool is not safe across the fork of data-loading workers, and says so at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Lightning 2.6 calls jsonargparse by names that will go in its next major version; both are pinned.
    warnings.filterwarnings("ignore", message=r"\s*``(instantiate_classes|skip_none)``", category=DeprecationWarning)
    # Lightning advertises hosted services at every start.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("💡 Tip:")

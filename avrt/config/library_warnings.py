"""Warnings and log lines of other packages that are silenced, each with the reason."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def silence_libraries() -> None:
    """Set environment variables and filters; what the user has set is kept."""
    # The tokenizers' thread pool is not safe across the fork of data workers, and warns at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Lightning 2.6 uses names of jsonargparse that its next major version removes; both are pinned.
    warnings.filterwarnings("ignore", message=r"\s*``(instantiate_classes|skip_none)``", category=DeprecationWarning)
    # The module's batch hook is meant for runs with and without a data module.
    warnings.filterwarnings("ignore", message=r"You have overridden `transfer_batch_to_device` in `LightningModule`")
    # The frozen encoders are meant to be in evaluation mode.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
    # Lightning's own use of torch's pytree.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Lightning advertises hosted services at every start.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_not_an_advertisement)
    # transformers imports DeepSpeed when it saves a folder, and DeepSpeed then reports that it found no GPU.
    logging.getLogger("DeepSpeed").addFilter(_is_not_about_a_missing_gpu)
    # transformers warns about the token ids of the published talker, which is never built.
    logging.getLogger("transformers.configuration_utils").addFilter(_is_not_about_the_talker)


@contextmanager
def silenced_transformers() -> Iterator[None]:
    """Silence progress bars and warnings of transformers, for reading a folder that is checked anyway."""
    from transformers.utils import logging as messages

    level, bar = messages.get_verbosity(), messages.is_progress_bar_enabled()
    messages.set_verbosity(logging.CRITICAL)
    messages.disable_progress_bar()
    try:
        yield
    finally:
        messages.set_verbosity(level)
        if bar:
            messages.enable_progress_bar()


def _is_not_an_advertisement(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("💡 Tip:")


def _is_not_about_a_missing_gpu(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Setting accelerator to CPU")


def _is_not_about_the_talker(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not (message.startswith("Model config:") and "(between 0 and 8447)" in message)

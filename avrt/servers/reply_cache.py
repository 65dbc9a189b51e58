"""Replies by the content of their calls, kept in a folder across steps, runs and machines."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from avrt.files.json_text import decode_json
from avrt.servers.config import Model

log = logging.getLogger(__name__)


class ReplyCache:
    """One small JSON file per reply, named by `content_key`. Processes may share the folder: a file is whole or absent.

    Args:
        folder: made if absent.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> str | None:
        """The reply to a call, or None. A damaged file (a power cut) is reported and counts as absent."""
        path = self._path(key)
        try:
            reply = decode_json(path.read_bytes())["reply"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            reply = None
        if not isinstance(reply, str):
            log.warning("%s: is not a cached reply; the call is made again", path)
            return None
        return reply

    def put(self, key: str, reply: str, model: Model, prompt: str) -> None:
        """Keep a reply; model and prompt are for readers of the file.

        Raises:
            OSError: the disk is full or failing.
        """
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"model": model.name, "revision": model.revision, "prompt": prompt, "reply": reply}
        # Not synced: a lost reply costs one call, and a sync per reply would cost more.
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"


def content_key(model: Model, prompt: str, media: str) -> str:
    """The key of a call (64 hexadecimal digits): model, revision, every sampling parameter, text and media.

    Args:
        media: hash of the media that are sent; empty for none.
    """
    parts = [model.name, model.revision, dict(model.sampling), prompt, media]
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

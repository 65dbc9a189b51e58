"""Everything that is refused in a shard, by reason."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from avrt.storage.addresses import shown


class FaultReason(StrEnum):
    """Every reason for which a shard, or a sample in it, is refused."""

    MISSING_FILE = "missing_file"
    """The shard does not exist."""
    COMPRESSED = "compressed"
    """A compressed archive; shards are plain tar files."""
    NOT_A_TAR = "not_a_tar"
    """No tar header, or one whose checksum is wrong."""
    TRUNCATED = "truncated"
    """The file ends inside a member, without the two empty blocks that close an archive, or before its listed size."""
    TRAILING_DATA = "trailing_data"
    """Data after the blocks that close the archive, such as a second archive."""
    FORBIDDEN_NAME = "forbidden_name"
    """An absolute path, ``..``, or a key with other characters than letters, digits, '-' and '_'."""
    FORBIDDEN_TYPE = "forbidden_type"
    """A link, device or sparse file. Entries of folders, which `tar` writes, are skipped."""
    FORBIDDEN_MEMBER = "forbidden_member"
    """A pickle, or in a shard of this project a file of another kind than JSON, JPEG, PNG and FLAC."""
    OTHER_TOOL = "other_tool"
    """A shard made by another tool, where one of this project is needed."""
    DUPLICATE_MEMBER = "duplicate_member"
    """The same member twice in one sample."""
    DUPLICATE_KEY = "duplicate_key"
    """A second sample under a key that was seen before."""
    MISSING_MEMBER = "missing_member"
    """A sample without its JSON member, or without a member that its JSON member lists."""
    EXTRA_MEMBER = "extra_member"
    """A member that the sample's JSON member does not list."""
    BAD_JSON = "bad_json"
    """A JSON member that does not parse, or is not of this format's version."""
    BAD_MEDIA = "bad_media"
    """A frame or audio that does not decode to what its JSON member says."""
    CHECKSUM = "checksum"
    """A member, or a whole shard, whose bytes are not those that were written."""
    NOT_IN_MANIFEST = "not_in_manifest"
    """A shard beside a manifest that does not list it, or lists another size or other samples."""


class ShardError(ValueError):
    """A shard, or one sample in it, that cannot be used.

    Attributes:
        location: the shard's path or URL.
        reason: one of `FaultReason`.
        key: the sample, or None when the whole shard is refused.
        detail: the finding, in plain words.
    """

    def __init__(self, location: str | Path, reason: FaultReason, detail: str, key: str | None = None) -> None:
        where = shown(location) if key is None else f"{shown(location)}, sample {key!r}"
        super().__init__(f"{where}: {reason.value}: {detail}")
        self.location = str(location)
        self.reason = reason
        self.detail = detail
        self.key = key

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, FaultReason, str, str | None]]:
        return type(self), (self.location, self.reason, self.detail, self.key)

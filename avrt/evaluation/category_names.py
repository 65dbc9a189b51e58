"""Names of categories for tables and pages; the annotation files have keys such as ``question_relation``."""

from __future__ import annotations

_NAMES = {
    "question_relation": "Stream that is needed",
    "question_type": "Question type",
    "Type": "Question type",
    "video_duration": "Video length",
    "video_category": "Video category",
    "duration": "Video length",
    "sub_category": "Subcategory",
    "sub-category": "Subcategory",
    "modality": "Modality",
    "task": "Domain",
}


def category_name(key: str) -> str:
    """A category's key as a heading: its known name, or the key with spaces and a capital."""
    words = key.replace("_", " ").replace("-", " ").strip()
    return _NAMES.get(key) or words[:1].upper() + words[1:]

"""Questions in the forms in which data sets publish them.

`read_annotations` reads a file or folder, `sample_of` one row. `files.py` reads rows from JSON, CSV, parquet and
`datasets` folders; `forms.py` finds their form; `choices.py` reads options and answers, `media_names.py` media.
"""

from avrt.data.annotations.choices import AnswerBase
from avrt.data.annotations.forms import FIELDS, FORMS, FormError
from avrt.data.annotations.reading import Annotations, ReadOptions, read_annotations, sample_of
from avrt.data.annotations.rows import RowError, RowReason

__all__ = [
    "FIELDS",
    "FORMS",
    "Annotations",
    "AnswerBase",
    "FormError",
    "ReadOptions",
    "RowError",
    "RowReason",
    "read_annotations",
    "sample_of",
]

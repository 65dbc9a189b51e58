"""The HTML report of evaluation runs."""

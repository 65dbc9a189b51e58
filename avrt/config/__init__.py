"""Configuration files: class paths, errors and data classes."""

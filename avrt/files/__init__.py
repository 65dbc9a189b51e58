"""Atomic files and folder locks."""

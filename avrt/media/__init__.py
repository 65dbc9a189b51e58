"""Clip files to frames and audio."""

"""Loggers of a run beyond curves: tables, images and audio, and Trackio."""

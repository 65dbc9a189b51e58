"""Rollout engines: sampling responses from the student."""

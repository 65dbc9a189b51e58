"""Thinking without content, for the variant ``format_only``: the form of a trace and nothing about the clip.

The paper's control has generic text ("Let me analyze this question carefully"), and the student that learned from it
wrote numbered steps, a label for each modality and a concluding statement. One text for all samples would be learned by
heart within a few steps, so each sample gets one of many wordings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

_OPENINGS = (
    "Let me analyze this question carefully.",
    "Let me think about this question step by step.",
    "I will work through this question in order.",
    "To answer this question, I consider the audio and the video one after the other.",
)
_QUESTION = (
    "I read the question and make sure that I understand what it asks for.",
    "First I look at what the question asks and what kind of answer it needs.",
    "The question has to be understood before anything else is considered.",
)
_AUDIO = (
    "I listen to the audio and consider what it contributes to the question.",
    "The audio is one source of evidence, and I take it into account.",
    "I go through the audio from beginning to end and keep in mind what matters here.",
)
_VIDEO = (
    "I look at the video and consider what it contributes to the question.",
    "The frames are one source of evidence, and I take them into account.",
    "I go through the frames from first to last and keep in mind what matters here.",
)
_OPTIONS = (
    "I compare the options with each other and with the evidence.",
    "Each option is considered in turn, and I check how well it fits.",
    "I go through all options and weigh them against the available evidence.",
)
_CONCLUSIONS = (
    "Taking everything into account, one option fits best, and I choose it.",
    "Based on the available evidence, I select the option that fits best.",
    "Considering both modalities together, I arrive at my answer.",
    "After weighing all of this, the most suitable option is clear.",
)
_AUDIO_LABELS = ("Audio", "Audio analysis", "What is heard")
_VIDEO_LABELS = ("Video", "Visual analysis", "What is seen")
_NUMBERS = ("{number}. ", "Step {number}: ", "({number}) ")


def filler(sample_id: str, texts: Sequence[str] | None = None) -> str:
    """A thinking of numbered steps with a label for each modality, the same for the same sample in every run.

    Nothing in it depends on the sample but the choice of words.

    Args:
        sample_id: the sample.
        texts: take one of these instead.
    """
    rng = random.Random(sample_id)
    if texts is not None:
        return rng.choice(texts)
    heard, seen = rng.choice(_AUDIO), rng.choice(_VIDEO)
    label = rng.randrange(len(_AUDIO_LABELS))
    modalities = [f"{_AUDIO_LABELS[label]}: {heard}", f"{_VIDEO_LABELS[label]}: {seen}"]
    rng.shuffle(modalities)
    steps = [rng.choice(_QUESTION), *modalities, rng.choice(_OPTIONS)]
    number = rng.choice(_NUMBERS)
    lines = [f"{number.format(number=i)}{step}" for i, step in enumerate(steps, 1)]
    return "\n".join([rng.choice(_OPENINGS), *lines, rng.choice(_CONCLUSIONS)])

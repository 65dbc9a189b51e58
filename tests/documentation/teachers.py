"""A server that acts as teachers, merger and judge on questions that it has read beforehand.

The replies have the forms of the real models': Kimi-VL's thinking marks with a heading and a list of all options, Audio
Flamingo's free reasoning, and the tags that the merger is asked for. A model that gets both streams replies in tags.
The vision teacher is wrong about every fifth question and the audio teacher about every seventh. Any other question is
answered with option B.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.scripted_server import Reply

VERDICT = {
    "verdict": "ACCURATE",
    "audio_grounded": True,
    "visual_grounded": True,
    "hallucinated_claims": [],
    "confidence": 1.0,
    "explanation": "Everything is in the clip.",
}
"""The judge's reply to every trace."""

VISION_EVERY, AUDIO_EVERY = 5, 7
"""One in so many questions is answered wrong."""


@dataclass(frozen=True)
class Question:
    """A question of an AVQA-format file."""

    number: int
    text: str
    options: tuple[str, ...]
    gold: int

    def vision_choice(self) -> int:
        return (self.gold + (self.number % VISION_EVERY == 0)) % len(self.options)

    def audio_choice(self) -> int:
        return (self.gold + (self.number % AUDIO_EVERY == 0)) % len(self.options)

    def kept(self) -> bool:
        """Whether both teachers are right, as the filter of ``variant: merged`` requires."""
        return self.vision_choice() == self.audio_choice() == self.gold


def read_questions(*files: Path) -> list[Question]:
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    return [
        Question(number, row["question_text"], tuple(map(str, row["multi_choice"])), row["answer"])
        for number, row in enumerate(rows)
    ]


class Teachers:
    """The answers of `tests.servers.scripted_server.ScriptedServer`."""

    def __init__(self, questions: list[Question]) -> None:
        self.questions = questions

    def __call__(self, body: dict[str, Any], text: str, times: int) -> Reply:
        question = next((q for q in self.questions if q.text in text and all(o in text for o in q.options)), None)
        kinds = [part["type"] for part in body["messages"][-1]["content"]]
        vision, audio = "image_url" in kinds or "video_url" in kinds, "input_audio" in kinds
        if "</trace>" in text:
            return Reply(json.dumps(VERDICT))
        if "</reply>" in text:
            return Reply(json.dumps({"seen": ["a man"], "heard": []}))
        if question is None:
            return Reply("Answer: B")
        if vision and audio:  # a native reasoner, or a student
            letter = "ABCDEFGH"[question.vision_choice()]
            return Reply(f"<think>I see and hear it.</think>\n<answer>{letter}</answer>")
        if vision:
            choice = question.vision_choice()
            steps = "\n".join(f"({'ABCDEFGH'[i]}) {option}: looked at." for i, option in enumerate(question.options))
            answer = f"Answer: ({'ABCDEFGH'[choice]}) {question.options[choice]}"
            return Reply(f"◁think▷Eight frames.◁/think▷Going through every option:\n{steps}\n{answer}")
        if audio:
            choice = question.audio_choice()
            return Reply(f"The sound is clear. The best fit is: ({'ABCDEFGH'[choice]}) {question.options[choice]}")
        letter = "ABCDEFGH"[question.gold]
        return Reply(f"<think>Frames and audio agree.</think>\n<answer>{letter}</answer>")

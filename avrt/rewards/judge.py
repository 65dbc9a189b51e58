"""A reward that asks a model behind an OpenAI-compatible server to grade each completion by a rubric."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from avrt.config.numbers import PositiveFloat
from avrt.rewards.base import RewardCallback, RewardError, Scores
from avrt.sample import Completion, Sample
from avrt.servers.clip_content import media_digest, media_parts
from avrt.servers.config import ServerConfig, under_key
from avrt.servers.content import Content, text_part
from avrt.servers.outcome import Outcome, Status
from avrt.servers.reply_cache import ReplyCache, content_key
from avrt.text.rubrics import RubricMedia, load_rubric

log = logging.getLogger(__name__)

UNREADABLE = "the reply does not end with a score"
_STREAMS: dict[str, str] = {"none": "", "frames": "V", "audio": "A", "both": "AV"}


@dataclass(frozen=True)
class _Call:
    """One question to the judge.

    Attributes:
        key: see `avrt.servers.reply_cache.content_key`.
        sample: with the clip that is sent, if any is.
        prompt: the text.
    """

    key: str
    sample: Sample
    prompt: str


class _StepMedia:
    """The media of a step's clips: hashed and encoded once per clip, whose completions are judged with the same.

    Args:
        inputs: see `media_parts`.
    """

    def __init__(self, inputs: str) -> None:
        self._inputs = inputs
        self._digests: dict[int, str] = {}
        self._parts: dict[int, Content] = {}

    def digest(self, sample: Sample) -> str | None:
        """Hash of what is sent of a sample's clip; empty if no media are sent, None if the clip has none of them."""
        clip = sample.clip
        if not self._inputs:
            return ""
        if clip is None or not (
            ("V" in self._inputs and clip.frames is not None) or ("A" in self._inputs and clip.waveform is not None)
        ):
            return None
        if id(clip) not in self._digests:
            self._digests[id(clip)] = media_digest(clip, self._inputs)
        return self._digests[id(clip)]

    def parts(self, sample: Sample) -> Content:
        """The parts of a message; called in threads."""
        clip = sample.clip
        if not self._inputs or clip is None:
            return []
        if id(clip) not in self._parts:
            self._parts[id(clip)] = media_parts(clip, self._inputs)
        return self._parts[id(clip)]


class JudgeReward(RewardCallback):
    """The score that a model gives a completion by a rubric, from 0 to 1.

    All completions of a step are sent at once, as many calls in flight as `server` allows, while the reference policy
    scores the responses. Equal completions are asked about once. A call that fails, or a reply without a readable
    score, gives NaN: the score is unknown, and the completion is left out of the step. A completion without a part that
    the rubric needs (its thinking, say) gets 0, and nobody is asked; so does one whose clip has no such media.

    The same completions get the same scores if the judge is deterministic, as at temperature 0 it nearly is, or if
    `cache` has its replies.

    Args:
        server: addresses, model, sampling and limits, as for traces and evaluation.
        rubric: name of a rubric that ships (``consistency``, ``grounding``), or a YAML file; see
            `avrt.text.rubrics.Rubric`.
        media: what of the clip is sent: ``none``, ``frames``, ``audio`` or ``both``; null as the rubric says.
        cache: folder in which replies are kept and found again by content; null for none.
        timeout_seconds: time for all calls of one step on this device; completions without a score then get NaN.
        max_failed_share: the run stops when more than this share of a step's completions on a device fail.
        weight: factor of this reward in the sum.
        name: the reward's name in the logs; null takes the rubric's.

    Raises:
        ValueError: a setting that cannot work, a rubric that is missing or wrong.
    """

    concurrent = True
    required = True

    def __init__(
        self,
        server: ServerConfig,
        rubric: str = "consistency",
        media: RubricMedia | None = None,
        cache: str | None = None,
        timeout_seconds: PositiveFloat = 300.0,
        max_failed_share: float = 0.5,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight=weight, name=Path(rubric).stem if name is None else name)
        with under_key("server"):
            server.check()
            self.model = server.resolve_model()
        with under_key("rubric"):
            self.rubric = load_rubric(rubric)
        if not 0 <= max_failed_share <= 1:
            raise ValueError(f"max_failed_share: must be 0 to 1, got {max_failed_share}")
        self.server = server
        self.media: RubricMedia = self.rubric.media if media is None else media
        self.cache = None if cache is None else ReplyCache(cache)
        self.timeout_seconds = timeout_seconds
        self.max_failed_share = max_failed_share
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notice a missing key or a wrong folder before the run starts. The key is not kept."""
        if stage != "fit":
            return
        with under_key(f"trainer.callbacks.{type(self).__name__}.server"):
            self.server.read_api_key()
        if self.cache is not None:
            self.cache.folder.mkdir(parents=True, exist_ok=True)

    def settings(self) -> Mapping[str, Any]:
        """What determines the scores; addresses, limits and the cache may change in a resumed run."""
        return {
            "model": self.model.name,
            "revision": self.model.revision,
            "sampling": dict(self.model.sampling),
            "media": self.media,
            "rubric": hashlib.sha256(repr(self.rubric).encode()).hexdigest()[:16],
        }

    def score(self, completions: Sequence[Completion]) -> Scores:
        media = _StepMedia(_STREAMS[self.media])
        calls = [self._call(completion, media) for completion in completions]
        asked = {call.key: call for call in reversed(calls) if call is not None}
        replies = self._cached(asked)
        cached = set(replies)
        errors: dict[str, str] = {}
        called = [call for key, call in asked.items() if key not in cached]
        if called:
            self._ask(called, media, replies, errors)
        known = {key: self.rubric.read_score(reply) for key, reply in replies.items()}
        for key, score in known.items():
            if score is None:
                errors[key] = UNREADABLE
        values = [0.0 if call is None else _value(known.get(call.key)) for call in calls]
        self._report([errors[call.key] for call in calls if call is not None and call.key in errors], calls, replies)
        return Scores(
            values,
            {
                "failed": [float(math.isnan(value)) for value in values],
                # Of equal completions, `asked` has the first.
                "called": [float(any(call is one for one in called)) for call in calls],
                "cached": [float(call is not None and call.key in cached) for call in calls],
            },
        )

    def _call(self, completion: Completion, media: _StepMedia) -> _Call | None:
        """The call about a completion; None where nobody is asked."""
        sample = completion.sample
        prompt, digest = self.rubric.fill(sample, completion.text), media.digest(sample)
        if digest is None and not self._warned:
            self._warned = True
            log.warning(
                "reward %r: sample %r has no media to send (media: %s); all completions of such samples get 0, and "
                "nobody is asked",
                self.name,
                sample.id,
                self.media,
            )
        if prompt is None or digest is None:
            return None
        prompt = self.model.complete(prompt)
        return _Call(content_key(self.model, prompt, digest), sample, prompt)

    def _cached(self, keys: Iterable[str]) -> dict[str, str]:
        """The replies that the cache has, by key."""
        if self.cache is None:
            return {}
        try:
            return {key: reply for key in keys if (reply := self.cache.get(key)) is not None}
        except OSError as error:
            raise RewardError(f"reward {self.name!r}: the cache cannot be read: {error}") from error

    def _ask(self, calls: Sequence[_Call], media: _StepMedia, replies: dict[str, str], errors: dict[str, str]) -> None:
        """Call the servers; adds each call's reply or error by its key.

        Raises:
            RewardError: no call can succeed, or the cache cannot be written.
        """
        # The client's libraries take a second to import, which runs without a judge need not spend.
        from avrt.servers.bounded_calls import call_within
        from avrt.servers.client import ServerError

        def keep(number: int, outcome: Outcome) -> None:
            if self.cache is not None and outcome.status is Status.OK:
                self.cache.put(calls[number].key, outcome.text, self.model, calls[number].prompt)

        try:
            outcomes = call_within(
                self.timeout_seconds,
                "server",
                self.server,
                self.model,
                self.server.read_api_key(),
                lambda number: [*media.parts(calls[number].sample), text_part(calls[number].prompt)],
                len(calls),
                keep,
            )
        except ServerError as error:
            raise RewardError(f"reward {self.name!r}: {error} ({self._servers})") from error
        except OSError as error:
            raise RewardError(f"reward {self.name!r}: a reply cannot be cached: {error}") from error
        for call, outcome in zip(calls, outcomes, strict=True):
            if outcome.status is Status.OK:
                replies[call.key] = outcome.text
            elif outcome.status is Status.LENGTH:
                errors[call.key] = "the token limit cut the reply: raise server.sampling.max_tokens"
            else:
                errors[call.key] = outcome.error

    @property
    def _servers(self) -> str:
        return f"{self.model.name} at {', '.join(self.server.base_urls)}"

    def _report(self, failed: list[str], calls: Sequence[_Call | None], replies: Mapping[str, str]) -> None:
        """Warn about completions without a score.

        Args:
            failed: the error of each.

        Raises:
            RewardError: they are too many.
        """
        if not failed:
            return
        from avrt.servers.call_report import ErrorCounts

        counts = ErrorCounts()
        for error in failed:
            counts.add(error)
        reasons = str(counts)
        if unreadable := [reply for reply in replies.values() if self.rubric.read_score(reply) is None]:
            lines = unreadable[0].strip().splitlines() or [""]
            reasons += f"; a reply without a score ends with {lines[-1][-100:]!r}"
        judged = sum(call is not None for call in calls)
        text = f"reward {self.name!r}: {len(failed)} of {judged} completions got no score from {self._servers}"
        if len(failed) > self.max_failed_share * judged:
            raise RewardError(f"{text}, more than max_failed_share allows ({self.max_failed_share:g}): {reasons}")
        log.warning("%s: %s", text, reasons)


def _value(score: float | None) -> float:
    return math.nan if score is None else score

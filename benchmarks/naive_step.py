"""The audio-visual peer of `benchmarks.grpo_step`: a GRPO step as in other open implementations.

Every response is a separate row in every pass: the rollout expands the prompt before the encoders run, and the passes
for reference, old policy and training run encoders, prompt and response for each of the G rows and hold all logits. It
is plain transformers with correct results, tuned as little as those implementations.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avrt.grpo.advantage import group_advantages
from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.media.geometry import TOKEN_PIXELS
from avrt.model.encoders import normalized_patches
from avrt.model.encoding import Prompt
from avrt.model.student import Student, StudentConfig
from avrt.sample import Clip, Sample


def audio_visual_prompts(folder: Path, count: int, frame_size: int) -> list[Prompt]:
    """Prompts of 8 square frames and 10 s of audio."""
    student = Student.load(_config(folder))
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for i in range(count):
        frames = torch.randint(0, 256, (8, 3, frame_size, frame_size), dtype=torch.uint8, generator=generator)
        waveform = 0.1 * torch.randn(160_000, generator=generator)
        clip = Clip(frames, tuple(1.25 * t for t in range(8)), 0.8, waveform, 10.0, frame_size, frame_size)
        sample = Sample(str(i), "red red", ("red", "green"), 0, clip=clip)
        prompts.append(student.encoder.encode(sample))
    return prompts


def _config(folder: Path) -> StudentConfig:
    return StudentConfig(path=str(folder), dtype="float32", min_pixels=TOKEN_PIXELS, max_pixels=10**7)


class NaiveStep:
    """One optimizer step per call.

    Args:
        folder, prompts, group, response: see `benchmarks.students.OurStep`.
        old_policy_pass: compute the log-probabilities of the policy that sampled the responses in a separate pass, as
            many frameworks always do, although before the first update it is the policy itself.
    """

    def __init__(
        self, folder: Path, prompts: list[Prompt], group: int, response: int, old_policy_pass: bool = True
    ) -> None:
        student = Student.load(_config(folder))
        self.policy = student.thinker
        self.policy.model.language_model.set_attn_implementation("sdpa")
        self.reference = copy.deepcopy(self.policy).requires_grad_(False)
        self.optimizer = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=1e-6)
        self.student, self.prompts, self.group, self.response = student, prompts, group, response
        self.old_policy_pass = old_policy_pass

    def __call__(self) -> float:
        """Seconds of the step."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        for prompt in self.prompts:
            self._accumulate(prompt)
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - start

    def _accumulate(self, prompt: Prompt) -> None:
        inputs = self._inputs(prompt)
        length = inputs["input_ids"].shape[1]
        with torch.no_grad():
            rows = self.policy.generate(
                **inputs,
                num_return_sequences=self.group,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                min_new_tokens=self.response,
                max_new_tokens=self.response,
                eos_token_id=self.student.processor.tokenizer.convert_tokens_to_ids("<|im_end|>"),
                pad_token_id=0,
                suppress_tokens=self.student.banned_tokens.nonzero().squeeze(1).tolist(),
            )
            rewards = torch.tensor([float(row[length:].sum() % 7) for row in rows])
            advantages = group_advantages(rewards, self.group).advantages
            reference, _ = self._logprobs(self.reference, prompt, rows, length)
            old = self._logprobs(self.policy, prompt, rows, length)[0] if self.old_policy_pass else None
        logprobs, entropies = self._logprobs(self.policy, prompt, rows, length)
        mask = torch.ones_like(logprobs, dtype=torch.bool)
        normalizer = Normalizer(self.group * len(self.prompts), mask.numel(), mask.numel(), self.response)
        config = LossConfig(beta=0.01)
        out = grpo_loss(
            logprobs,
            mask,
            advantages,
            config,
            normalizer,
            old_logprobs=old,
            ref_logprobs=reference,
            entropies=entropies.detach(),
        )
        out.loss.backward()

    def _logprobs(self, model: Any, prompt: Prompt, rows: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the responses, ``[G, C]``: encoders and prompt once per row."""
        inputs = self._inputs(prompt, copies=len(rows)) | {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
        logits = model(**inputs, use_cache=False).logits[:, length - 1 : -1]
        logprobs = logits.masked_fill(self.student.banned_tokens, -torch.inf).log_softmax(-1)
        with torch.no_grad():
            entropies = torch.special.entr(logprobs.exp()).sum(-1)
        return logprobs.gather(-1, rows[:, length:, None]).squeeze(-1), entropies

    def _inputs(self, prompt: Prompt, copies: int = 1) -> dict[str, Any]:
        """What the processor would hand to the model for `copies` rows."""
        assert prompt.video_grid_thw is not None
        assert prompt.input_features is not None
        mel = prompt.input_features[None]
        return {
            "input_ids": prompt.input_ids.expand(copies, -1),
            "attention_mask": torch.ones(copies, len(prompt.input_ids), dtype=torch.long),
            "pixel_values_videos": normalized_patches(self.student.processor, prompt).repeat(copies, 1),
            "video_grid_thw": prompt.video_grid_thw.repeat(copies, 1),
            "video_second_per_grid": torch.tensor([prompt.second_per_grid] * copies),
            "input_features": mel.repeat(copies, 1, 1),
            "feature_attention_mask": torch.ones(copies, mel.shape[2], dtype=torch.long),
        }

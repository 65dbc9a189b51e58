"""Group Relative Policy Optimization on audio-visual questions (paper Eq. 2 to 6).

One optimizer step works on one *window* of prompts. At the window's first micro-batch everything that needs no gradient
happens at once: the frozen encoders run once per prompt, all responses are sampled together, rewards and advantages are
computed, and the reference policy scores the responses. `training_step` then slices the window.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from avrt.grpo.advantage import SCALES, GroupStatistics, group_advantages
from avrt.grpo.loss import LossConfig, Normalizer, grpo_loss
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.lora import LoRAConfig
from avrt.model.student import StudentConfig
from avrt.model.token_logprobs import EmbeddedPrompt, LanguageModel, TokenLogprobs, token_logprobs
from avrt.rewards import RewardCallback, RewardTable, collect_rewards, compute_rewards, describe_rewards
from avrt.rollout.builtin import Response, SamplingConfig
from avrt.sample import Completion
from avrt.text.answers import Reason, parse
from datamodules.streaming import MicroBatch, Window
from lightning_modules.base import MAX_SKIPPED_STEPS, StudentModule
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.reference import AdaptersOff, FrozenCopy, ReferencePolicy

MAX_SAMPLING_DIFFERENCE = 0.25
"""Mean difference of a token's log-probability between sampling and scoring; bfloat16 rounds some hundredths."""


@dataclass
class Rollout:
    """What a window's prompts led to; kept until the window's last step is done and callbacks have seen it.

    Shape letters: n prompts, G responses each, N = n * G.

    Attributes:
        prompts: embedded prompts, length n.
        responses: G responses per prompt.
        completions: the same as rewards see them, length N.
        rewards: scores by reward, and their sum.
        statistics: advantages ``[N]`` and group statistics.
        normalizer: totals of the optimizer step.
        ref_logprobs: ``[C]`` of each of the N responses under the reference policy, or None at beta 0.
        old_logprobs: ``[C]`` of each response under the policy that sampled; filled in the first pass over the window.
    """

    prompts: list[EmbeddedPrompt]
    responses: list[list[Response]]
    completions: list[Completion]
    rewards: RewardTable
    statistics: GroupStatistics
    normalizer: Normalizer
    ref_logprobs: list[Tensor] | None
    old_logprobs: dict[int, Tensor]


class GRPOModule(StudentModule):
    """GRPO with shared prompts. Rewards are callbacks listed under `trainer.callbacks`.

    Args:
        student: which student to train.
        optimizer: AdamW and its schedule.
        num_generations: responses per prompt, G.
        max_completion_length: token limit of a response.
        temperature: of sampling; log-probabilities are taken at it too.
        num_iterations: optimizer steps on each window of prompts.
        loss_type: ``grpo``, ``bnpo``, ``dr_grpo`` or ``dapo``; see `avrt.grpo.loss.LossConfig`.
        beta: weight of the KL term; at 0 no reference policy is held.
        epsilon, epsilon_high: clip range of the ratio below and above 1.
        importance_sampling_level: ``token``, or ``sequence`` for GSPO.
        scale_rewards: ``group``, ``batch`` or ``none``.
        seed: of sampling.
        val_max_completion_length: token limit of a validation answer; None takes `max_completion_length`.
        kv_cache_tokens: bound on the tokens whose keys and values the rollout holds at one time.
        chunk_rows: response tokens whose logits are held at one time; 0 for all.
        share_prompt: compute each prompt once per pass for its whole group; off only for comparison.
        share_prefill: keep one prompt cache per group in the rollout; off only for comparison.
        reference_device: where the reference policy's weights wait: ``same`` as the policy, or ``cpu`` for host memory
            (they come to the device only while they score). Under LoRA there is no second copy to keep.
        lora: train low-rank adapters of the language model instead of its weights.
        resume_with_changes: go on from a checkpoint although settings or data have changed since.
        max_skipped_steps: optimizer steps in a row that may be skipped as not finite before the run ends with an error.
    """

    def __init__(
        self,
        student: StudentConfig,
        optimizer: OptimizerConfig,
        num_generations: int = 4,
        max_completion_length: int = 1024,
        temperature: float = 1.0,
        num_iterations: int = 1,
        loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "grpo",
        beta: float = 0.01,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        importance_sampling_level: Literal["token", "sequence"] = "token",
        scale_rewards: Literal["group", "batch", "none"] = "group",
        seed: int = 0,
        val_max_completion_length: int | None = None,
        kv_cache_tokens: int = 262_144,
        chunk_rows: int = DEFAULT_CHUNK_ROWS,
        share_prompt: bool = True,
        share_prefill: bool = True,
        reference_device: Literal["same", "cpu"] = "same",
        lora: LoRAConfig | None = None,
        resume_with_changes: bool = False,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
    ) -> None:
        if val_max_completion_length is not None and val_max_completion_length < 1:
            raise ValueError(
                f"model.init_args.val_max_completion_length must be positive, is {val_max_completion_length}"
            )
        if reference_device not in ("same", "cpu"):
            raise ValueError(f"model.init_args.reference_device must be same or cpu, is {reference_device!r}")
        if num_generations < 2:
            raise ValueError(
                f"model.init_args.num_generations is {num_generations}: a group needs at least 2 responses, with one "
                "every advantage is 0"
            )
        if num_iterations < 1:
            raise ValueError(f"model.init_args.num_iterations must be at least 1, is {num_iterations}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"model.init_args.temperature must be positive, is {temperature}")
        if scale_rewards not in SCALES:
            raise ValueError(f"model.init_args.scale_rewards must be one of {', '.join(SCALES)}, is {scale_rewards!r}")
        super().__init__(
            student,
            optimizer,
            val_max_completion_length or max_completion_length,
            kv_cache_tokens,
            lora,
            resume_with_changes,
            chunk_rows,
            max_skipped_steps,
        )
        self.num_generations = num_generations
        self.num_iterations = num_iterations
        self.sampling = SamplingConfig(max_completion_length, temperature, kv_cache_tokens, share_prefill)
        self.loss_config = LossConfig(loss_type, beta, epsilon, epsilon_high, importance_sampling_level)
        self.scale_rewards = scale_rewards
        self.seed = seed
        self.share_prompt = share_prompt
        self.reference_device = reference_device
        self.rewards: list[RewardCallback] = []
        self.rollout: Rollout | None = None
        self.reference: ReferencePolicy | None = None

    def training_settings(self) -> dict[str, Any]:
        return super().training_settings() | {
            "num_generations": self.num_generations,
            "max_completion_length": self.sampling.max_completion_length,
            "temperature": self.sampling.temperature,
            "scale_rewards": self.scale_rewards,
            "seed": self.seed,
            **asdict(self.loss_config),
        }

    def reward_settings(self) -> dict[str, dict[str, Any]]:
        return describe_rewards(self.rewards)

    def student_loaded(self) -> None:
        if self.loss_config.beta:
            if self.lora_config is not None:
                self.reference = AdaptersOff(self.student.language_model)
            else:
                self.reference = FrozenCopy(
                    self.student.copy_language_model(), in_host_memory=self.reference_device == "cpu"
                )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.rewards = collect_rewards(self.trainer.callbacks)  # type: ignore[attr-defined]

    # ---- before the gradient: everything that is done once per window -----------------------------------------------

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        if batch.first:
            self.rollout = None  # left behind by a run that stopped within a window
            self.rollout = self._roll_out(batch.window, batch.stop - batch.start)

    @torch.no_grad()
    def _roll_out(self, window: Window, micro_batch_size: int) -> Rollout:
        """Sample, reward and score a whole window.

        Args:
            micro_batch_size: prompts that the reference scores at a time.
        """
        samples = [item.prompt.sample for item in window.items]
        with self.timed("embedding"), self.precision_of_steps():
            prompts = self.student.embed([item.prompt for item in window.items])
        with self.timed("rollout"), self.precision_of_steps():
            seeds = [stream_seed(self.seed, window.epoch, sample.id) for sample in samples]
            responses = self.rollout_engine(self.sampling).generate(prompts, self.num_generations, seeds)
        completions = self.completions(samples, responses)
        with self.timed("rewards"):
            rewards = compute_rewards(self.rewards, completions)
            statistics = self._advantages(rewards.total)
        with self.timed("reference"), self.precision_of_steps():
            ref_logprobs = self._score_reference(prompts, responses, micro_batch_size)
        self._log_rollout(prompts, completions, rewards, statistics)
        return Rollout(
            prompts=prompts,
            responses=responses,
            completions=completions,
            rewards=rewards,
            statistics=statistics,
            normalizer=self._normalizer(completions),
            ref_logprobs=ref_logprobs,
            old_logprobs={},
        )

    def _advantages(self, rewards: Tensor) -> GroupStatistics:
        """This device's advantages. Rewards of all devices count where they are scaled by the batch's deviation."""
        groups = len(rewards) // self.num_generations
        everyones = group_advantages(self._gather(rewards), self.num_generations, self.scale_rewards)
        mine = slice(self.trainer.global_rank * groups, (self.trainer.global_rank + 1) * groups)
        return GroupStatistics(
            everyones.advantages.view(-1, self.num_generations)[mine].flatten(),
            everyones.group_std[mine],
            everyones.zero_std[mine],
        )

    def _score_reference(
        self, prompts: list[EmbeddedPrompt], responses: list[list[Response]], micro_batch_size: int
    ) -> list[Tensor] | None:
        if self.reference is None:
            return None
        logprobs: list[Tensor] = []
        with self.reference.on(self.device) as reference:
            for start in range(0, len(prompts), micro_batch_size):
                part = slice(start, start + micro_batch_size)
                scores = self._score(reference, prompts[part], responses[part])
                logprobs += [row[mask] for row, mask in zip(scores.logprobs, scores.mask, strict=True)]
        return logprobs

    def _score(
        self, model: LanguageModel, prompts: list[EmbeddedPrompt], responses: list[list[Response]]
    ) -> TokenLogprobs:
        return token_logprobs(
            model,
            prompts,
            [[response.token_ids for response in group] for group in responses],
            temperature=self.sampling.temperature,
            banned=self.student.banned_tokens,
            chunk_rows=self.chunk_rows,
            share_prompt=self.share_prompt,
        )

    def _normalizer(self, completions: list[Completion]) -> Normalizer:
        tokens = sum(len(c.token_ids) for c in completions)
        tokens_per_device = float(tokens)
        if self.trainer.world_size > 1:
            total = torch.tensor(tokens_per_device, device=self.device)
            tokens_per_device = float(self.trainer.strategy.reduce(total, reduce_op="mean"))
        return Normalizer(len(completions), tokens, tokens_per_device, self.sampling.max_completion_length)

    # ---- the gradient -----------------------------------------------------------------------------------------------

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        rollout = self.rollout
        assert rollout is not None
        group = slice(batch.start * self.num_generations, batch.stop * self.num_generations)
        with self.timed("training"):
            scores = self._score(
                self.student.language_model,
                rollout.prompts[batch.start : batch.stop],
                rollout.responses[batch.start : batch.stop],
            )
            if batch.iteration == 0:
                self._check_sampler(scores, rollout.responses[batch.start : batch.stop])
            out = grpo_loss(
                scores.logprobs,
                scores.mask,
                rollout.statistics.advantages[group].to(scores.logprobs.device),
                self.loss_config,
                rollout.normalizer,
                old_logprobs=self._old_logprobs(rollout, batch, scores),
                ref_logprobs=None
                if rollout.ref_logprobs is None
                else pad_sequence(rollout.ref_logprobs[group], batch_first=True),
                entropies=scores.entropies,
            )
        self.add_to_step("loss", out.loss, 1.0 if batch.last else 0.0)
        for name, (total, weight) in out.sums.items():
            self.add_to_step(name, total, weight)
        return self.share_of_step(out.loss)

    def on_train_batch_end(self, outputs: Any, batch: MicroBatch, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if batch.last and batch.iteration == self.num_iterations - 1:
            self.rollout = None  # frees the media features; callbacks had their turn

    def _check_sampler(self, scores: TokenLogprobs, responses: list[list[Response]]) -> None:
        """The policy scores what it has just sampled: the same numbers, up to rounding, if the sampler had its weights.

        Raises:
            ValueError: the sampler had others: of an earlier step, or with a tensor missing.
        """
        sampled = torch.cat([response.logprobs for group in responses for response in group])
        difference = (scores.logprobs.detach()[scores.mask].cpu() - sampled).abs()
        self.add_to_step("sampling_logp_difference", difference.sum(), len(difference))
        if difference.mean() > MAX_SAMPLING_DIFFERENCE:
            raise ValueError(
                f"step {self.global_step}: responses were sampled from other weights than the policy's: their "
                f"log-probabilities differ by {float(difference.mean()):.2f} on average; the rollout engine must take "
                "the student's weights before every window"
            )

    def _old_logprobs(self, rollout: Rollout, batch: MicroBatch, scores: TokenLogprobs) -> Tensor | None:
        """Log-probabilities of the policy that sampled.

        In the first pass over a window no update has happened since sampling: they are the policy's own, and are kept
        for the passes that follow. No extra forward is ever needed.
        """
        if self.num_iterations == 1:
            return None
        if batch.start not in rollout.old_logprobs:
            rollout.old_logprobs[batch.start] = scores.logprobs.detach()
            return None
        return rollout.old_logprobs[batch.start]

    # ---- metrics ----------------------------------------------------------------------------------------------------

    def _log_rollout(
        self,
        prompts: list[EmbeddedPrompt],
        completions: list[Completion],
        rewards: RewardTable,
        statistics: GroupStatistics,
    ) -> None:
        """Metrics of the window, under the field's names (see docs/metrics.md)."""
        lengths = torch.tensor([len(c.token_ids) for c in completions], dtype=torch.float64)
        finished = torch.tensor([c.finish_reason == "stop" for c in completions])
        lengths, finished = self._gather(lengths), self._gather(finished)
        self._tokens_seen += int(lengths.sum()) + int(
            self._gather(torch.tensor([len(p) for p in prompts], dtype=torch.float64)).sum() * self.num_generations
        )
        done = lengths[finished.bool()]
        metrics = {
            "completions/mean_length": lengths.mean(),
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": 1 - finished.double().mean(),
            "completions/mean_terminated_length": done.mean() if len(done) else torch.tensor(0.0),
            "frac_reward_zero_std": self._gather(statistics.zero_std).double().mean(),
        }
        columns = [("reward", "reward_std", rewards.total)]
        columns += [(f"rewards/{name}/mean", f"rewards/{name}/std", row) for name, row in rewards.by_name.items()]
        for mean, std, values in columns:
            scores = self._gather(values).double()
            scores = scores[~scores.isnan()]
            if len(scores):
                metrics[mean] = scores.mean()
                metrics[std] = scores.std() if len(scores) > 1 else torch.tensor(0.0)
        reasons = [parse(c.text, c.sample, finish_reason=c.finish_reason).reason for c in completions]
        for reason in Reason:
            count = self._gather(torch.tensor([r is reason for r in reasons])).double().mean()
            metrics[f"answers/{reason.value}"] = count
        for name, value in metrics.items():
            # Every device has gathered the same values: their mean over devices is the value itself.
            self.add_to_step(name, value)

    def _gather(self, values: Tensor) -> Tensor:
        """Values of all devices, one after another, on the host."""
        if self.trainer.world_size == 1:
            return values.cpu()
        gathered: Any = self.all_gather(values.to(self.device))
        return gathered.flatten(0, 1).cpu()

    def progress_metrics(self) -> tuple[str, ...]:
        return ("reward", "completions/mean_length")  # the loss says nothing: at one pass a window it is near 0


def stream_seed(seed: int, epoch: int, sample_id: str) -> int:
    """Seed of a prompt's own random stream: the same responses however prompts are spread over steps and devices."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

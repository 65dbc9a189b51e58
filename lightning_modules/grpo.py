"""Group Relative Policy Optimization on audio-visual questions (paper Eq. 2 to 6).

One optimizer step works on one *window* of prompts. At the window's first micro-batch everything that needs no gradient
happens at once (`avrt.rollout.window_rollout`): the frozen encoders run once per prompt, all responses are sampled
together, rewards and advantages are computed, and the reference policy scores the responses. `training_step` then works
on one micro-batch of the window after another.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from avrt.config.numbers import NonNegativeInt, PositiveFloat, PositiveInt, TwoOrMore
from avrt.grpo.group_selection import DynamicSamplingConfig, check_group_rewards
from avrt.grpo.loss import DEFAULT_LOSS, LossConfig, grpo_loss
from avrt.grpo.sampling_correction import SamplingCorrectionConfig, SamplingRatios, sampling_ratios
from avrt.model.chunked_logprobs import DEFAULT_CHUNK_ROWS
from avrt.model.lora import LoRAConfig
from avrt.model.reference import AdaptersOff, FrozenCopy, ReferencePolicy
from avrt.model.self_check import compare_with_separate_rows, judge
from avrt.model.student import StudentConfig
from avrt.model.token_logprobs import TokenLogprobs
from avrt.rewards import RewardCallback, collect_rewards, describe_rewards
from avrt.rollout.choice import EngineName, engine_config
from avrt.rollout.engine import DEFAULT_SAMPLING, EngineConfig, Response, SamplingConfig
from avrt.rollout.metrics import count_tokens, rollout_metrics, selection_metrics, staleness_metrics
from avrt.rollout.prompt_history import PromptHistory
from avrt.rollout.sampling_check import MAX_LOGP_DIFFERENCE, SamplingCheck
from avrt.rollout.sampling_metrics import (
    DIFFERENCE,
    sampled_logprobs,
    sampling_metrics,
    with_sample_size,
)
from avrt.rollout.window_rollout import Devices, Rollout, WindowRollout, response_logprobs
from avrt.text.option_order import has_fixed_order
from datamodules.windows import MicroBatch
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.run_engine import CloseEngine, RunEngine, check_sampling_ahead
from lightning_modules.training import MAX_SKIPPED_STEPS, TrainingModule

SECONDS_BEFORE_LEAVING = 60.0
"""Longest wait of a run that was told to end for the responses that are sampled ahead."""


class GRPOModule(TrainingModule):
    """GRPO with shared prompts. Rewards are callbacks listed under `trainer.callbacks`.

    Args:
        student: the student to train.
        optimizer: AdamW and its schedule.
        loss: the objective.
        sampling: how responses are sampled.
        rollout: the engine that samples them: ``builtin``, ``vllm``, or the class path of an engine's settings (a
            subclass of `avrt.rollout.engine.EngineConfig`). Validation always uses the built-in engine.
        sample_ahead: sample the next window's responses while the policy is trained on this one's, with the weights of
            before; for engines on other devices, and with `sampling_correction`.
        num_generations: responses per prompt, G.
        num_iterations: optimizer steps on each window of prompts.
        dynamic_sampling: replace groups whose responses do not differ by further prompts; None for not.
        filter_groups: names of rewards; groups whose responses differ in none of them are masked out of the loss (and
            not replaced). None for not.
        val_max_completion_length: token limit of a validation answer; None takes `sampling.max_completion_length`.
        chunk_rows: response tokens whose logits are held at once; 0 for all.
        reference_device: where the reference policy's weights are kept: ``same`` as the policy, or ``cpu`` for host
            memory (they are on the device only while they are used). Under LoRA there is no second copy to keep.
        lora: train low-rank adapters of the language model instead of its weights.
        resume_with_changes: resume from a checkpoint although settings or data have changed since.
        max_skipped_steps: optimizer steps in a row that may be skipped as not finite before the run ends with an error.
        max_sampling_logp_difference: largest mean difference of a token's log-probability between sampling and
            training. A step above it is a warning; the run ends if most of the last 10 steps are above it.
        sampling_correction: weigh tokens by the ratio of the policy to what the engine sampled from; null for no
            correction, since the built-in engine samples from the policy itself.
        self_check: before the first step of a run, a resumed one too, score some responses also in rows of their own,
            and end the run if shared prompts give other log-probabilities than rounding explains.
    """

    samples_in_training = True
    progress_metrics = ("reward", "completions/mean_length")  # the loss is near 0 with one pass over a window

    def __init__(
        self,
        student: StudentConfig,
        optimizer: OptimizerConfig,
        loss: LossConfig = DEFAULT_LOSS,
        sampling: SamplingConfig = DEFAULT_SAMPLING,
        rollout: EngineConfig | EngineName = "builtin",
        sample_ahead: bool = False,
        num_generations: TwoOrMore = 4,
        num_iterations: PositiveInt = 1,
        dynamic_sampling: DynamicSamplingConfig | None = None,
        filter_groups: list[str] | None = None,
        val_max_completion_length: PositiveInt | None = None,
        chunk_rows: NonNegativeInt = DEFAULT_CHUNK_ROWS,
        reference_device: Literal["same", "cpu"] = "same",
        lora: LoRAConfig | None = None,
        resume_with_changes: bool = False,
        max_skipped_steps: PositiveInt = MAX_SKIPPED_STEPS,
        max_sampling_logp_difference: PositiveFloat = MAX_LOGP_DIFFERENCE,
        sampling_correction: SamplingCorrectionConfig | None = None,
        self_check: bool = True,
    ) -> None:
        super().__init__(
            student,
            optimizer,
            val_max_completion_length or sampling.max_completion_length,
            sampling.kv_cache_tokens,
            lora,
            resume_with_changes,
            chunk_rows,
            max_skipped_steps,
        )
        self.answer_sampling = replace(self.answer_sampling, decoding=sampling.decoding)
        self.loss = loss
        self.sampling = sampling
        self.engine_config = engine_config(rollout)
        self.engine: RunEngine | None = None
        """The engine of a run that does not sample with the built-in one."""
        self.sample_ahead = sample_ahead
        if sample_ahead:
            check_sampling_ahead(self.engine_config, sampling_correction, dynamic_sampling)
        self.num_generations = num_generations
        self.num_iterations = num_iterations
        self.dynamic_sampling = dynamic_sampling
        self.filter_groups = filter_groups
        if dynamic_sampling is not None:
            self.max_num_gen_batches = dynamic_sampling.max_num_gen_batches
        self.reference_device = reference_device
        self.sampling_correction = sampling_correction
        self.sampling_check = SamplingCheck(max_sampling_logp_difference)
        self.self_check = self_check
        self._self_checked = False
        self.rewards: list[RewardCallback] = []
        self.prompt_history = PromptHistory()
        self.rollout: Rollout | None = None
        """The current window's; callbacks may read it until the window's last step is done."""
        self.reference: ReferencePolicy | None = None

    def training_settings(self) -> dict[str, Any]:
        sampling = asdict(self.sampling)
        del sampling["kv_cache_tokens"], sampling["decoding"]  # change time and memory only
        return super().training_settings() | {
            "num_generations": self.num_generations,
            "loss": self.loss,
            "sampling": sampling,
            "dynamic_sampling": self.dynamic_sampling,
            "filter_groups": self.filter_groups,
            "sampling_correction": self.sampling_correction,
            "rollout": None if self.engine_config is None else type(self.engine_config).__name__,
            "sample_ahead": self.sample_ahead or None,  # as in checkpoints of before it
        }

    def reward_settings(self) -> dict[str, dict[str, Any]]:
        return describe_rewards(self.rewards)

    def student_loaded(self) -> None:
        if self.loss.beta and self.trainer.state.fn == TrainerFn.FITTING:
            if self.lora_config is not None:
                self.reference = AdaptersOff(self.student.language_model)
            else:
                # The policy is still in host memory, and moves only when the strategy sets it up. The reference goes to
                # its device at once: the host would hold it once per process otherwise, beside the optimizer's state.
                parked = self.reference_device == "cpu"
                device = torch.device("cpu") if parked else self.trainer.strategy.root_device
                self.reference = FrozenCopy(self.student.copy_language_model(device), in_host_memory=parked)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.close_engine()  # of an earlier run
            if self.engine_config is not None:
                self.engine_config.check()
                self.engine_config.check_family(self.student_family())
                self.engine = RunEngine(
                    self.engine_config,
                    self,
                    self.sampling,
                    self.num_generations,
                    self.num_iterations,
                    self.sample_ahead,
                )
            self.prompt_history = PromptHistory()  # of an earlier run
            self._self_checked = False
            self.rewards = collect_rewards(self.trainer.callbacks)  # type: ignore[attr-defined]
            check_group_rewards(self.dynamic_sampling, self.filter_groups, [reward.name for reward in self.rewards])

    # ---- before the gradient: everything that is done once per window -----------------------------------------------

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        if batch.first:
            self.rollout = None  # left over from a run that stopped within a window
            window = batch.window
            sampled = None
            if self.engine is not None and self.sample_ahead:
                sampled = self.engine.sampled_ahead(window)
            elif self.engine is not None:
                self.engine.follow()
            self.rollout = self.window_rollout().run(
                window.prompts, window.epochs, batch.stop - batch.start, window.draw, sampled
            )
            if self.engine is not None:
                self.engine.rest()
            window.keep(self.rollout.kept)
            if self.self_check and not self._self_checked:
                self._check_shared_prompt(self.rollout, batch.prompt_slice)
            self.step_metrics.tokens_seen += count_tokens(self.rollout, self._gather)
            values = rollout_metrics(self.rollout, self._gather)
            chosen = self.filter_groups if self.dynamic_sampling is None else self.dynamic_sampling.rewards
            if chosen:
                values |= selection_metrics(self.rollout, chosen, self.dynamic_sampling is not None, self._gather)
            done = self.rollout.generated.completions
            values |= self.prompt_history.note(done, self.num_generations, self._gather)
            if self.sample_ahead:
                values |= staleness_metrics(done, self._gather)
            for name, value in values.items():
                # Every device has gathered the same values: their mean over devices is the value itself.
                self.step_metrics.add(name, value)
            if self._data is not None and self._data.permute_options:
                fixed = [has_fixed_order(prompt.sample) for prompt in window.prompts]
                self.step_metrics.add("data/fixed_option_order", sum(fixed), len(fixed))
        if batch.last and batch.iteration == self.num_iterations - 1:
            self.prompt_history.commit()  # a checkpoint of this step resumes behind the window

    def window_rollout(self) -> WindowRollout:
        """The rollout of a window with the student's current weights."""
        return WindowRollout(
            student=self.student,
            engine=self.engine or self.rollout_engine(self.sampling),
            rewards=self.rewards,
            reference=self.reference,
            sampling=self.sampling,
            num_generations=self.num_generations,
            loss=self.loss,
            dynamic_sampling=self.dynamic_sampling,
            filter_groups=self.filter_groups,
            chunk_rows=self.chunk_rows,
            devices=Devices(self.trainer.global_rank, self.trainer.world_size, self._gather),
            timed=self.step_metrics.timed,
            precision=self.precision_of_steps,
        )

    def prepare_to_leave(self) -> None:
        if self.engine is not None:
            self.engine.drop_unfinished(SECONDS_BEFORE_LEAVING)

    def close_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    def configure_callbacks(self) -> list[Callback]:
        return [CloseEngine(self.close_engine)]

    def teardown(self, stage: str) -> None:
        self.close_engine()
        super().teardown(stage)

    def _check_shared_prompt(self, rollout: Rollout, prompts: slice) -> None:
        """Compare shared prompts with plain rows on this device, once; called on all devices.

        Raises:
            ValueError: on all devices, if they differ on one.
        """
        with self.precision_of_steps():
            here = compare_with_separate_rows(
                self.student.language_model,
                rollout.prompts[prompts],
                [[response.token_ids for response in group] for group in rollout.responses[prompts]],
                temperature=self.sampling.temperature,
                banned=self.student.banned_tokens,
                chunk_rows=self.chunk_rows,
            )
        self.print(judge(here.of_devices(self._gather), self.student_config.attention_kernel))
        self._self_checked = True

    def _gather(self, values: Tensor) -> Tensor:
        """Values of all devices, one after another, on the host."""
        if self.trainer.world_size == 1:
            return values.cpu()
        gathered: Any = self.all_gather(values.to(self.device))
        return gathered.flatten(0, 1).cpu()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["avrt"]["prompt_history"] = self.prompt_history.state_dict()
        if self.engine is not None and self.sample_ahead:
            checkpoint["avrt"]["sampled_ahead"] = self.engine.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "prompt_history" in checkpoint["avrt"]:  # not in checkpoints of earlier versions: their prompts are new
            self.prompt_history.load_state_dict(checkpoint["avrt"]["prompt_history"])
        if self.engine is not None and self.sample_ahead:
            self.engine.load_state_dict(checkpoint["avrt"].get("sampled_ahead"))

    # ---- the gradient -----------------------------------------------------------------------------------------------

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        rollout = self.rollout
        assert rollout is not None
        prompts, rows = batch.prompt_slice, batch.rows(self.num_generations)
        with self.step_metrics.timed("training"):
            scores = self.policy_logprobs(rollout, prompts)
            old_logprobs = self._old_logprobs(rollout, batch, scores)
            mask = scores.mask & rollout.used[rows, None].to(scores.mask.device)
            ratios = self._sampling_ratios(scores, old_logprobs, mask, rollout.responses[prompts], batch.iteration)
            out = grpo_loss(
                scores.logprobs,
                mask,
                rollout.statistics.advantages[rows].to(scores.logprobs.device),
                self.loss,
                rollout.normalizer,
                old_logprobs=old_logprobs,
                ref_logprobs=None
                if rollout.ref_logprobs is None
                else pad_sequence(rollout.ref_logprobs[rows], batch_first=True),
                entropies=scores.entropies,
                sampling_ratios=None if ratios is None else ratios.values,
            )
        self.step_metrics.add("loss", out.loss, 1.0 if batch.last else 0.0)
        for name, (total, weight) in out.sums.items():
            self.step_metrics.add(name, total, weight)
        own = {"loss": out.loss, "completions/mean_length": scores.mask.sum() / len(scores.mask)}
        if "kl" in out.sums:
            own["kl"] = out.sums["kl"][0] / out.sums["kl"][1]
        self.step_metrics.note_samples([prompt.sample.id for prompt in batch.prompts], own)
        return self.share_of_step(out.loss)

    def policy_logprobs(self, rollout: Rollout, prompts: slice) -> TokenLogprobs:
        """Log-probabilities of the responses to some of a window's prompts under the policy, with gradient."""
        return response_logprobs(
            self.student.language_model,
            rollout.prompts[prompts],
            rollout.responses[prompts],
            self.sampling.temperature,
            self.student.banned_tokens,
            self.chunk_rows,
        )

    def on_train_batch_end(self, outputs: Any, batch: MicroBatch, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if batch.last and batch.iteration == self.num_iterations - 1:
            self.rollout = None  # frees the media features; callbacks have seen it

    def _sampling_ratios(
        self,
        scores: TokenLogprobs,
        old_logprobs: Tensor | None,
        used: Tensor,
        responses: list[list[Response]],
        iteration: int,
    ) -> SamplingRatios | None:
        """The factors of the correction, None without one; notes how far engine and policy are apart."""
        if self.sampling_correction is None and iteration > 0:
            return None
        logprobs = scores.logprobs.detach() if old_logprobs is None else old_logprobs
        sampled = sampled_logprobs(responses, logprobs)
        ratios = None
        if self.sampling_correction is not None:
            ratios = sampling_ratios(logprobs, sampled, used, self.sampling_correction)
        if iteration == 0:  # later passes correct the same responses
            noted = sampling_metrics(logprobs, sampled, scores.mask, ratios)
            for name, (total, weight) in noted.sums.items():
                self.step_metrics.add(name, total, weight)
            for name, value in noted.largest.items():
                self.step_metrics.note_largest(name, value)
            for name, value in noted.smallest.items():
                self.step_metrics.note_smallest(name, value)
        return ratios

    def derived_metrics(self, values: dict[str, float]) -> dict[str, float]:
        return with_sample_size(values)

    def check_step(self, values: dict[str, float]) -> None:
        """Warn of a step that sampled with other weights than the policy's; end the run if most steps do."""
        difference = values.get(DIFFERENCE)
        warning = None if difference is None else self.sampling_check.note(self.global_step, difference)
        if warning is not None:
            self.print(warning)

    def _old_logprobs(self, rollout: Rollout, batch: MicroBatch, scores: TokenLogprobs) -> Tensor | None:
        """Log-probabilities of the policy that sampled.

        In the first pass over a window no update has happened since sampling: they are the policy's own, and are kept
        for the passes that follow. No extra forward pass is needed.
        """
        if self.num_iterations == 1:
            return None
        if batch.start not in rollout.old_logprobs:
            rollout.old_logprobs[batch.start] = scores.logprobs.detach()
            return None
        return rollout.old_logprobs[batch.start]

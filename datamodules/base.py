"""Training and validation data from shards: the base of the data modules for SFT and GRPO."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from avrt.config.numbers import NonNegativeInt, PositiveFloat, PositiveInt, ShareBelowOne
from avrt.config.optimizer_steps import accumulation
from avrt.media.clip_files import without_extension
from avrt.media.masking import Modalities
from avrt.model.encoding import Prompt, PromptEncoder
from avrt.storage.shard_cache import DEFAULT_CACHE_BYTES, ShardCache
from datamodules.damage import DEFAULT_DAMAGED_SHARE, DamagedSamples, check_damaged_share
from datamodules.reading import EvaluationLoader, device_batches
from datamodules.sources import SampleSources, TrainShards, open_sources
from datamodules.streaming import EncodedSamples
from datamodules.windows import WindowLoader


class ShardDataModule(LightningDataModule):
    """Training and validation samples from shards (see `avrt.data.shards`).

    The student decides how a sample is encoded, so the module `connect`s its encoder once the student is loaded.

    Args:
        train: training shards: a folder, a file, a pattern (``shard-{000..031}.tar``, ``*.tar``) or a URL
            (``https://``, ``s3://``, ``gs://``, ``hf://``), or a list of these. A list may hold sources with names and
            weights instead, see `datamodules.sources.DataSource`.
        val: validation shards, also used by `predict`: any of these but sources. None for no validation.
        batch_size: prompts per device and micro-batch.
        val_batch_size: prompts per device and validation step.
        val_modalities: ``AV``; or ``A`` (frames blanked) or ``V`` (audio silenced) in validation.
        val_samples: validate on the first `val_samples` samples only; None for all.
        num_workers: processes that read and encode samples ahead, per device.
        prefetch: micro-batches (in validation, parts of a batch) that each of them keeps ready in shared memory.
        seed: determines the order of the training samples.
        shuffle: permute the training samples differently in every pass over them.
        permute_options: give every training sample its options in another order in every pass, drawn from `seed`, the
            pass and the sample's id; the letters stay A, B, C, ... and the gold option follows. Samples with a text
            that depends on the order keep it (`avrt.text.option_order`). For GRPO only: traces name the letters.
        shuffle_shards: shards whose samples are mixed at a time. Of remote shards, as many are fetched ahead, so that
            `cache_gb` should hold twice as many.
        cache_dir: folder of fetched shards, shared by all processes of a machine; None for a folder in the user's
            cache (``AVRT_CACHE``, ``XDG_CACHE_HOME``).
        cache_gb: bound of that folder, in 10^9 bytes. The least recently used shards are removed.
        train_split, val_split: take only samples of this split; None for all.
        max_damaged_share: read others in the place of damaged training samples (`datamodules.damage`), up to this
            share; with more, the run stops. 0 stops at the first. Validation always stops: its numbers would not be
            comparable between steps.
        allow_overlap: train although samples of the validation set are in the training set.
        prompts_per_step: prompts of one optimizer step over all devices. Gradient accumulation follows:
            `prompts_per_step` / (`batch_size` x devices). None leaves it to `trainer.accumulate_grad_batches`.
        val_every_n_steps: optimizer steps from one validation to the next; None leaves it to
            `trainer.val_check_interval`, which counts micro-batches.
    """

    with_targets = False

    def __init__(
        self,
        train: TrainShards,
        val: str | list[str] | None = None,
        batch_size: PositiveInt = 1,
        val_batch_size: PositiveInt = 8,
        val_modalities: Modalities = "AV",
        val_samples: PositiveInt | None = None,
        num_workers: NonNegativeInt = 2,
        prefetch: PositiveInt = 2,
        seed: NonNegativeInt = 0,
        shuffle: bool = True,
        shuffle_shards: PositiveInt = 32,
        cache_dir: str | None = None,
        cache_gb: PositiveFloat = DEFAULT_CACHE_BYTES / 1e9,
        train_split: str | None = None,
        val_split: str | None = None,
        allow_overlap: bool = False,
        prompts_per_step: PositiveInt | None = None,
        val_every_n_steps: PositiveInt | None = None,
        permute_options: bool = False,
        max_damaged_share: ShareBelowOne = DEFAULT_DAMAGED_SHARE,
    ) -> None:
        super().__init__()
        if permute_options and self.with_targets:
            raise ValueError(
                "permute_options: is true, which supervised fine-tuning does not support: a trace names options by "
                'letter and place, and no rule can tell all of these from other words ("A man", "the second"); set it '
                "to false"
            )
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.val_modalities = val_modalities
        self.val_samples = val_samples
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.seed = seed
        self.shuffle = shuffle
        self.shuffle_shards = shuffle_shards
        self.cache_dir = cache_dir
        self.cache_gb = cache_gb
        self.train_split = train_split
        self.val_split = val_split
        self.allow_overlap = allow_overlap
        self.prompts_per_step = prompts_per_step
        self.val_every_n_steps = val_every_n_steps
        self.permute_options = permute_options
        self.max_damaged_share = max_damaged_share
        self._encoder: PromptEncoder | None = None
        self._num_iterations = 1
        self._allow_changes = False
        self._max_num_gen_batches = 1
        self._window_loader: WindowLoader | None = None
        self._samples: dict[str, SampleSources] = {}

    def setup(self, stage: str) -> None:
        """Open the shards, before the student is loaded, which may take minutes."""
        if stage == "fit":
            self._count_in_optimizer_steps()
            self._open("train")
        if self.val is not None:
            self._open("val")
        elif stage != "fit":
            command = getattr(stage, "value", stage)
            raise ValueError(f"data.val: is null, and `{command}` reads it; set it to shards")
        if stage == "fit" and self.val is not None:
            check_overlap(self._open("train"), self._open("val"), self.allow_overlap)

    def _count_in_optimizer_steps(self) -> None:
        """Tell the trainer how many micro-batches make an optimizer step, and after how many it validates.

        Lightning counts both in micro-batches. Called in `setup`: the number of devices is known by then, and strategy
        and loops read the trainer's values later.

        Raises:
            ValueError: no whole number of micro-batches makes a step, or the trainer was given another value.
        """
        trainer = self.trainer
        assert trainer is not None
        if self.prompts_per_step is not None:
            trainer.accumulate_grad_batches = accumulation(
                self.prompts_per_step, self.batch_size, trainer.world_size, trainer.accumulate_grad_batches
            )
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.val_every_n_steps is not None and not trial:  # a trial validates once, at its end
            interval = self.val_every_n_steps * trainer.accumulate_grad_batches
            if trainer.val_check_interval not in (1.0, interval):
                raise ValueError(
                    f"trainer.val_check_interval is {trainer.val_check_interval}, and data.val_every_n_steps "
                    f"{self.val_every_n_steps} makes it {interval}; remove one of the two"
                )
            trainer.val_check_interval = interval
            trainer.check_val_every_n_epoch = None  # else a validation would have to fit into an epoch

    def _open(self, name: Literal["train", "val"]) -> SampleSources:
        """The samples of `train` or `val`, opened once."""
        if name not in self._samples:
            cache = ShardCache(self.cache_dir, round(self.cache_gb * 1e9))
            shards, split = getattr(self, name), getattr(self, f"{name}_split")
            share = self.max_damaged_share if name == "train" else 0.0
            self._samples[name] = open_sources(shards, split, cache, f"data.{name}", share)
        return self._samples[name]

    def connect(
        self,
        encoder: PromptEncoder,
        num_iterations: int = 1,
        allow_changes: bool = False,
        max_num_gen_batches: int = 1,
    ) -> None:
        """Take what the module decides; called by the module in every run, before loaders are built.

        Args:
            encoder: the student's.
            num_iterations: optimizer steps on each window of prompts.
            allow_changes: resume although data or order have changed since the checkpoint.
            max_num_gen_batches: a window draws at most so many times its prompts (dynamic sampling).
        """
        self._encoder = encoder
        self._num_iterations = num_iterations
        self._allow_changes = allow_changes
        self._max_num_gen_batches = max_num_gen_batches
        self._window_loader = None  # of an earlier run, with that run's encoder and position

    @property
    def encoder(self) -> PromptEncoder:
        """The connected student's."""
        if self._encoder is None:
            raise ValueError(f"{type(self).__name__} has no encoder yet: call connect(student.encoder) first")
        return self._encoder

    @property
    def window_loader(self) -> WindowLoader:
        """The training loader; built once per run, since it holds the position in the data."""
        if self._window_loader is None:
            assert self.trainer is not None
            samples = self._open("train")
            order = samples.order(seed=self.seed, shuffle=self.shuffle, shuffle_shards=self.shuffle_shards)
            self._window_loader = WindowLoader(
                EncodedSamples(
                    samples,
                    self.encoder,
                    self.with_targets,
                    shards_ahead=self.shuffle_shards,
                    option_seed=self.seed if self.permute_options else None,
                    order=order if self.max_damaged_share else None,
                    max_damaged_share=self.max_damaged_share,
                ),
                order,
                micro_batch_size=self.batch_size,
                micro_batches=self.trainer.accumulate_grad_batches,
                num_iterations=self._num_iterations,
                max_num_gen_batches=self._max_num_gen_batches,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
                num_workers=self.num_workers,
                prefetch=self.prefetch,
                fingerprint=samples.fingerprint,
                permute_options=self.permute_options,
                allow_changes=self._allow_changes,
            )
            loader = self._window_loader
            rank_zero_info(
                f"Each optimizer step takes {loader.window_size} prompts: {loader.micro_batch_size} per micro-batch x "
                f"{loader.micro_batches} accumulated x {loader.world_size} device{'s' * (loader.world_size > 1)}."
            )
        return self._window_loader

    def samples_by_source(self) -> dict[str, int]:
        """Samples of each source up to the window in training; empty for a single source."""
        samples, loader = self._open("train"), self.window_loader
        if len(samples.names) == 1:
            return {}
        counts = loader.order.counts(loader.samples_seen, samples.bounds)
        return dict(zip(samples.names, counts, strict=True))

    @property
    def damaged(self) -> DamagedSamples:
        """The damaged training samples on this device."""
        return self.window_loader.damaged

    def check_damaged(self, damaged: float) -> None:
        """Stop the run if too many training samples are damaged.

        Args:
            damaged: over all devices, from the beginning of the run.

        Raises:
            ValueError: see `datamodules.damage.check_damaged_share`.
        """
        loader = self.window_loader
        check_damaged_share(damaged, loader.samples_seen, loader.order.size, self.max_damaged_share)

    def train_dataloader(self) -> WindowLoader:
        return self.window_loader

    def val_dataloader(self) -> EvaluationLoader[list[Prompt]] | list[Any]:
        if self.val is None:
            return []
        assert self.trainer is not None
        samples = self._open("val")
        size = len(samples) if self.val_samples is None else min(self.val_samples, len(samples))
        batches = device_batches(size, self.val_batch_size, self.trainer.global_rank, self.trainer.world_size)
        reader = EncodedSamples(samples, self.encoder, modalities=self.val_modalities, shards_ahead=self.shuffle_shards)
        return EvaluationLoader(reader, batches, self.num_workers, self.prefetch)

    def predict_dataloader(self) -> EvaluationLoader[list[Prompt]] | list[Any]:
        """The validation questions."""
        return self.val_dataloader()


def check_overlap(train: SampleSources, val: SampleSources, allow: bool) -> None:
    """Refuse to train on samples of the validation set; report how many clips the two share with other questions.

    Samples are the same if both id and clip are equal: two sets may each count their ids from 0.

    Raises:
        ValueError: samples are in both, and `allow` is False.
    """
    trained, validated = _samples_and_clips(train), set(_samples_and_clips(val))
    shared = [key for key, clip in trained if (key, clip) in validated]
    if shared:
        line = (
            f"{len(shared):,} of the {len(val):,} samples of data.val are also in data.train, for example {shared[0]!r}"
        )
        if not allow:
            raise ValueError(
                f"{line}; validation would measure what was trained on. Give each its own shards, set data.train_split "
                "and data.val_split, list them in a file under `never` of their source, or set data.allow_overlap to "
                "true"
            )
        rank_zero_info(f"{line} (data.allow_overlap).")
    clips = sorted({clip for _, clip in trained} & {clip for _, clip in validated} - {""})
    if clips:
        rank_zero_info(f"{len(clips):,} clips of data.val are also in data.train, for example {clips[0]!r}.")


def _samples_and_clips(samples: SampleSources) -> list[tuple[str, str]]:
    """Id and clip of every sample."""
    return [
        (key, without_extension(clip))
        for shards in samples.shards
        for key, clip in zip(shards.keys, shards.sources, strict=True)
    ]

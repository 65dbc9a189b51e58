"""What a rollout server asks of vLLM's workers. vLLM adds the class's methods to its own worker."""

from __future__ import annotations

from typing import Any

from avrt.rollout.vllm.process_group import SERVER, Meeting, join, receive
from avrt.rollout.vllm.weights import arrived_totals, without_warnings


class WorkerExtension:
    """Methods that the server calls by name in each worker."""

    model_runner: Any

    def avrt_read_weights(self, folder: str) -> None:
        """Load the weights that the trainer has written."""
        with without_warnings():
            self.model_runner.reload_weights(weights_path=folder)

    def avrt_receive_weights(self, meeting: dict[str, Any], tensors: list[tuple[str, list[int]]]) -> None:
        """Load the weights that the trainer sends, see `avrt.rollout.vllm.process_group`."""
        group = join(Meeting.from_json(meeting), SERVER)
        like = next(self.model_runner.get_model().parameters())
        with without_warnings():
            self.model_runner.reload_weights(weights_iterator=receive(group, tensors, like))

    def avrt_arrived_totals(self) -> dict[str, int | None]:
        """See `avrt.rollout.vllm.weights.arrived_totals`."""
        return arrived_totals(self.model_runner.get_model())

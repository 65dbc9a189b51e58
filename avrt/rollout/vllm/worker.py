"""What a rollout server asks of vLLM's workers. vLLM adds the class's methods to its own worker."""

from __future__ import annotations

from typing import Any

from avrt.rollout.vllm.weights import arrived_totals, without_warnings


class WorkerExtension:
    """Methods that the server calls by name in each worker."""

    model_runner: Any

    def avrt_read_weights(self, folder: str) -> None:
        """Load the weights that the trainer has written or sent."""
        with without_warnings():
            self.model_runner.reload_weights(weights_path=folder)

    def avrt_arrived_totals(self) -> dict[str, int | None]:
        """See `avrt.rollout.vllm.weights.arrived_totals`."""
        return arrived_totals(self.model_runner.get_model())

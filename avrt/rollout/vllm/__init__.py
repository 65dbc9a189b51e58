"""vLLM as rollout engine: in the process that trains, on the same device."""

from avrt.rollout.vllm.in_process import VLLM

__all__ = ["VLLM"]

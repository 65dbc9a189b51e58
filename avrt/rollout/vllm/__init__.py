"""vLLM as rollout engine: in the process that trains, on the same device, or on servers."""

from avrt.rollout.vllm.in_process import VLLM
from avrt.rollout.vllm.servers import VLLMServers

__all__ = ["VLLM", "VLLMServers"]

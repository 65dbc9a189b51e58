"""Greedy answers of vLLM to the requests of a folder; run by a Python with vLLM, so nothing of the project is imported.

    PYTHON vllm_answers.py STUDENT REQUESTS OUT

REQUESTS holds `requests.json` (processor settings, answer length, and each prompt's text and streams) and `media.npz`
(``video`` ``[T, H, W, 3]``, ``audio`` ``[N]`` at 16 kHz). OUT is the JSON file to write: versions, the sampling
defaults that vLLM took from the student's folder, and for each prompt its expanded ids, the answer's ids, and for each
answer token the log-probabilities of the most likely ones by id.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
SAMPLING_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def answer(student: Path, requests: Path) -> dict[str, Any]:
    import numpy as np
    import transformers
    import vllm

    settings = json.loads((requests / "requests.json").read_text(encoding="utf-8"))
    llm = vllm.LLM(
        model=str(student),
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 0, "video": 1, "audio": 1},
        mm_processor_kwargs=settings["processor"],
        enforce_eager=True,
        distributed_executor_backend="uni",
    )
    with np.load(requests / "media.npz") as arrays:
        frames, waveform = arrays["video"], arrays["audio"]
    clip = {"fps": settings["processor"]["fps"], "total_num_frames": len(frames)}
    media = {"video": [(frames, clip)], "audio": [(waveform, 16_000)]}
    prompts = [
        {"prompt": prompt["text"], "multi_modal_data": {kind: media[kind] for kind in prompt["streams"]}}
        for prompt in settings["prompts"]
    ]
    greedy = vllm.SamplingParams(temperature=0, max_tokens=settings["tokens"], logprobs=20, ignore_eos=True)
    defaults = llm.get_default_sampling_params()
    answers = []
    for result in llm.generate(prompts, greedy, use_tqdm=False):
        output = result.outputs[0]
        logprobs = [{token: entry.logprob for token, entry in step.items()} for step in output.logprobs]
        answers.append({"prompt": result.prompt_token_ids, "answer": list(output.token_ids), "logprobs": logprobs})
    return {
        "versions": f"vLLM {vllm.__version__}, transformers {transformers.__version__}",
        "defaults": {name: getattr(defaults, name) for name in SAMPLING_DEFAULTS},
        "neutral": {name: getattr(vllm.SamplingParams(), name) for name in SAMPLING_DEFAULTS},
        "answers": answers,
    }


if __name__ == "__main__":
    student, requests, out = (Path(argument) for argument in sys.argv[1:])
    out.write_text(json.dumps(answer(student, requests)), encoding="utf-8")

"""vLLM's own server with an exported student answers ``avrt evaluate-server`` as ``avrt test`` says."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.runs import free_port
from tests.evaluation.test_served_student import check_replies, write_clips
from tests.vllm.test_real_servers import Server, stop, wait_for

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def url(float32_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    media = '{"video": 1, "audio": 1, "image": 1}'
    # The command `vllm serve` does not start where the package is the CPU build.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(float32_folder)]
    command += ["--served-model-name", "avrt-student", "--port", str(port), "--max-model-len", "1024"]
    command += ["--dtype", "float32", "--limit-mm-per-prompt", media, "--generation-config", "vllm"]
    log = (tmp_path_factory.mktemp("log") / "server.log").open("wb")
    process = subprocess.Popen(
        [*command, "--trust-request-mm-kwargs", "--enforce-eager"],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_for(server, path="/health")
        yield f"{server.url}/v1"
    finally:
        stop(server, signal.SIGKILL)


@pytest.mark.parametrize("modalities", ["AV", "A", "V"])
def test_the_replies_are_those_of_test(
    modalities: str, float32_folder: Path, shards: Path, url: str, tmp_path: Path
) -> None:
    check_replies(url, float32_folder, shards, modalities, tmp_path)

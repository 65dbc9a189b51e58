"""Reading shards: this project's pipeline against plain webdataset with the same decoding, local and over HTTP.

    python -m benchmarks.shards [--samples 64] [--old FOLDER]

Samples have 8 frames of 560 x 1008 and 10 s of audio. First one process reads, and its CPU seconds count. Then two
data workers read, and samples per second and the memory of a worker count. Over HTTP a server on this machine is
asked; the pipeline fetches whole shards into an empty cache, webdataset streams. ``--old`` names a checkout of an
earlier version with its own environment, whose `ShardSet` reads the same shards. Opening is measured on a set of
`--opened` samples of audio alone.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
import webdataset
from torch.utils.data import DataLoader

from avrt.data.records import JSON_MEMBER, EncodedClip, decode_clip, encode_clip, parse_record, to_sample
from avrt.data.shards import ShardSet
from avrt.data.writer import ShardWriter
from avrt.sample import Clip, Sample
from avrt.storage.shard_cache import ShardCache
from benchmarks.measure import alternate, paired_ratio, parser, save, show
from datamodules.sources import SampleSources
from datamodules.streaming import FetchAhead, ItemReader, Part, Stage
from datamodules.workers import read_batches

WORKERS = 2

OLD_READER = """
import sys, time, torch
from avrt.data.shards import ShardSet
torch.set_num_threads(1)
shards = ShardSet(sys.argv[1:])
order = torch.randperm(len(shards), generator=torch.Generator().manual_seed(0)).tolist()
shards[0]
start = time.process_time()
for index in order:
    shards[index]
print(time.process_time() - start)
"""


def main() -> None:
    args = parser(__doc__, rounds=5)
    args.add_argument("--samples", type=int, default=64)
    args.add_argument("--opened", type=int, default=60_000)
    args.add_argument("--old", type=Path, help="checkout of an earlier version")
    options = args.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / "clips", options.samples, _clip(), samples_per_shard=16)
        result = {"benchmark": "shards"} | _read(folder, options) | _read_in_workers(folder / "clips", options)
        audio = Clip(None, waveform=torch.zeros(160), duration=0.01)
        _write(folder / "many", options.opened, audio, samples_per_shard=256)
        result |= _opening(folder / "many")
    save(options.json, result)


def _read(folder: Path, options: Any) -> dict[str, Any]:
    local = folder / "clips"
    names = sorted(path.name for path in local.glob("*.tar"))
    with _Server(local) as address:
        contestants = {
            "pipeline": lambda: _pipeline(str(local), None),
            "webdataset": lambda: _webdataset([str(local / name) for name in names]),
            "pipeline over HTTP": lambda: _remote(address),
            "webdataset over HTTP": lambda: _webdataset([f"{address}/{name}" for name in names]),
        }
        if options.old is not None:
            contestants["old reader"] = lambda: _old(options.old, local)
        times = alternate(contestants, options.rounds)
    rows = [
        [name, options.samples / timing.median, 1000 * timing.median / options.samples, timing.spread]
        for name, timing in times.items()
    ]
    result: dict[str, Any] = {"seconds": {name: timing.seconds for name, timing in times.items()}}
    for ours, other in [
        ("pipeline", "webdataset"),
        ("pipeline over HTTP", "webdataset over HTTP"),
        ("pipeline", "old reader"),
    ]:
        if other in times:
            ratio, low, high = paired_ratio(times[ours], times[other])
            rows.append([f"CPU of {ours} / {other}", ratio, "", f"{low:.3g} to {high:.3g}"])
            result[f"{ours} / {other}"] = [ratio, low, high]
    show(f"{options.samples} samples, one core", ["", "samples per s", "ms each", "spread s"], rows)
    return result


def _read_in_workers(local: Path, options: Any) -> dict[str, Any]:
    """Wall time of two data workers that read and decode, and their memory."""
    names = sorted(path.name for path in local.glob("*.tar"))
    memory: dict[str, list[float]] = {}
    with _Server(local) as address:
        contestants = {
            "pipeline": lambda: _loaded(_project_loader(str(local), None), memory, "pipeline"),
            "webdataset": lambda: _loaded(_webdataset_loader([str(local / n) for n in names]), memory, "webdataset"),
            "pipeline over HTTP": lambda: _remote_loaded(address, memory),
            "webdataset over HTTP": lambda: _loaded(
                _webdataset_loader([f"{address}/{name}" for name in names]), memory, "webdataset over HTTP"
            ),
        }
        times = alternate(contestants, options.rounds)
    rows = [
        [name, options.samples / timing.median, statistics.median(memory[name]), timing.spread]
        for name, timing in times.items()
    ]
    result: dict[str, Any] = {
        "seconds in workers": {name: timing.seconds for name, timing in times.items()},
        "MB of a worker": memory,
    }
    for ours, other in [("pipeline", "webdataset"), ("pipeline over HTTP", "webdataset over HTTP")]:
        ratio, low, high = paired_ratio(times[other], times[ours])
        rows.append([f"{ours} against {other}", ratio, "", f"{low:.3g} to {high:.3g}"])
        result[f"{other} / {ours}, in workers"] = [ratio, low, high]
    title = f"{options.samples} samples, {WORKERS} data workers (memory: their own, not shared with other processes)"
    show(title, ["", "samples per s", "MB of a worker", "spread s"], rows)
    return result


class _Decoded(ItemReader[Sample]):
    """Decoded samples, as the data modules' workers read them before they are encoded."""

    def __init__(self, samples: SampleSources) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Sample:
        return self.samples.decode(number, self.samples.members(number))

    def stages(self, parts: Sequence[Part]) -> list[Stage]:
        return [FetchAhead(self.samples, parts, ahead=32), *super().stages(parts)]


def _project_loader(location: str, cache: ShardCache | None) -> Iterator[Any]:
    samples = SampleSources([""], [ShardSet(location, cache=cache)])
    places = samples.order(seed=0, shuffle=True, shuffle_shards=32).places(0, len(samples))
    batches = [[place.sample for place in places[i : i + WORKERS]] for i in range(0, len(places), WORKERS)]
    return read_batches(_Decoded(samples), batches, WORKERS)


def _webdataset_loader(urls: list[str]) -> Iterator[Any]:
    dataset = webdataset.WebDataset(urls, shardshuffle=False, workersplitter=webdataset.split_by_worker).map(_decode)
    return iter(DataLoader(dataset, batch_size=None, num_workers=WORKERS))


def _remote_loaded(address: str, memory: dict[str, list[float]]) -> float:
    with tempfile.TemporaryDirectory() as name:
        return _loaded(_project_loader(address, ShardCache(name)), memory, "pipeline over HTTP")


def _loaded(loader: Iterator[Any], memory: dict[str, list[float]], name: str) -> float:
    """Seconds from the first sample to the last, and the workers' own memory half-way."""
    first = next(loader)
    start = time.perf_counter()
    del first
    for number, _ in enumerate(loader):
        if number == 8:
            memory.setdefault(name, []).extend(_own_memory(process.pid) for process in active_children())
    return time.perf_counter() - start


def _own_memory(pid: int | None) -> float:
    """Megabytes that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def _pipeline(location: str, cache: ShardCache | None) -> float:
    """CPU seconds of reading all samples in the training order."""
    samples = SampleSources([""], [ShardSet(location, cache=cache)])
    order = samples.order(seed=0, shuffle=True, shuffle_shards=32)
    start = time.process_time()
    for place in order.places(0, len(samples)):
        samples.decode(place.sample, samples.members(place.sample))
    return time.process_time() - start


def _remote(address: str) -> float:
    with tempfile.TemporaryDirectory() as name:
        return _pipeline(address, ShardCache(name))


def _webdataset(urls: list[str]) -> float:
    """CPU seconds of plain webdataset with this project's decoding."""
    dataset = webdataset.WebDataset(urls, shardshuffle=False).map(_decode)
    start = time.process_time()
    for _ in dataset:
        pass
    return time.process_time() - start


def _decode(group: dict[str, Any]) -> Sample:
    record = parse_record(group[JSON_MEMBER], group["__key__"])
    media = {name: data for name, data in group.items() if not name.startswith("__") and name != JSON_MEMBER}
    return to_sample(record, decode_clip(EncodedClip(media, record["clip"])))


def _old(checkout: Path, shards: Path) -> float:
    with tempfile.TemporaryDirectory() as name:  # without the manifest, which earlier versions do not read
        copies = [shutil.copy(path, name) for path in sorted(shards.glob("*.tar"))]
        return _run_old(checkout, copies)


def _run_old(checkout: Path, shards: list[str]) -> float:
    command = [checkout / ".venv" / "bin" / "python", "-c", OLD_READER, *shards]
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _opening(folder: Path) -> dict[str, Any]:
    """Seconds and memory of opening a set, in a process of its own."""
    program = (
        "import json, sys, time, avrt.data.shards as s\n"
        "size = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "before, start = size(), time.perf_counter()\n"
        f"shards = s.ShardSet({str(folder)!r})\n"
        "print(json.dumps([len(shards), time.perf_counter() - start, (size() - before) / 1e6]))\n"
    )
    rows = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
    show("opening", ["samples", "seconds", "MB"], rows)
    return {"opening": rows}


class _Server:
    """A web server for a folder, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self) -> str:
        assert self._server.stdout is not None
        port = self._server.stdout.readline().split(" port ")[1].split()[0]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *error: object) -> None:
        self._server.terminate()
        self._server.wait()


def _clip() -> Clip:
    """Smooth frames with grain, and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 14, 24, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (560, 1008), mode="bicubic")
    grain = 3 * torch.randn(smooth.shape, generator=generator)
    frames = (smooth + grain).clamp(0, 255).to(torch.uint8)
    audio = 0.1 * torch.randn(160_000, generator=generator).clamp(-3, 3)
    return Clip(frames, tuple(0.625 + 1.25 * i for i in range(8)), 0.8, audio, 10.0, 1280, 720)


def _write(folder: Path, count: int, clip: Clip, samples_per_shard: int) -> None:
    encoded = encode_clip(clip)
    sample = Sample("x", "What makes the sound in the video?", ("dog", "cat", "car", "rain"), 0, clip=None)
    with ShardWriter(folder, samples_per_shard=samples_per_shard) as writer:
        for i in range(count):
            writer.write(replace(sample, id=f"q-{i:06d}", source=f"clip_{i // 2:06d}"), encoded)


if __name__ == "__main__":
    main()

"""Programs of several processes around one cache; run as ``python -m tests.storage.cache_programs NAME JSON``."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from typing import Any

from avrt.storage.shard_cache import ShardCache, ShardFile
from avrt.storage.transfers import Retries


def read_all(arguments: dict[str, Any]) -> None:
    """Read every shard whole in an order of one's own, and print the names of those with wrong bytes."""
    cache = ShardCache(arguments["folder"], arguments["max_bytes"], Retries(timeout_seconds=5, first_wait_seconds=0.01))
    shards = [ShardFile(**shard) for shard in arguments["shards"]]
    random.Random(arguments["seed"]).shuffle(shards)
    wrong = []
    for number, shard in enumerate(shards):
        cache.fetch_ahead(shards[number + 1 : number + 1 + arguments.get("ahead", 0)])
        with cache.open(shard) as file:
            if hashlib.sha256(file.read()).hexdigest() != arguments["digests"][shard.location]:
                wrong.append(shard.location)
    print(json.dumps(wrong))


if __name__ == "__main__":
    {"read_all": read_all}[sys.argv[1]](json.loads(sys.argv[2]))

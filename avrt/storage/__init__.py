"""Files on this machine and in remote storage: locations, transfers, the shard cache and uploads.

`addresses.py` reads URLs, `locations.py` resolves what users write, `transfers.py` moves bytes with retries,
`shard_cache.py` keeps remote shards on the local disk, and `uploads.py` writes finished files to remote folders.
"""

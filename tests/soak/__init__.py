"""A soak: the public commands under random kills, full disks, failing storage, corrupt shards and clock jumps."""

"""Shards: packing, reading, annotations and manifests."""

"""Questions and clips as WebDataset shards.

`annotations.py` reads questions, `packing.py` packs them with their clips, `shards.py` reads them back (`ShardSet`).
`records.py` defines the members of a sample, `manifest.py` the list of shards beside them.
"""

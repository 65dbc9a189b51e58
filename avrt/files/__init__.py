"""Writing files that survive kills and full disks.

`atomic.py` and `atomic_folder.py` write files and folders atomically, `jsonl_log.py` appends lines durably,
and `folder_lock.py` keeps a second writer out of a folder.
"""

"""Writing and reading plain (single-file) checkpoints; see `avrt.model.checkpoints`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import distributed

from avrt.files.atomic import atomic_file
from avrt.files.checksums import add_checksum
from avrt.model.checkpoints import check_complete, check_no_instantiator, load_without_code, remove, save_tensors


class SafeCheckpointIO(TorchCheckpointIO):
    """Files that are complete or absent, and are read without running code. See `lightning_modules.plugins`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if storage_options is not None:
            raise ValueError("storage_options: checkpoints are local files; leave it out")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            save_tensors(checkpoint, Path(file.name), path)
            add_checksum(Path(file.name))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        path = checked(Path(path))
        if path.is_dir():
            raise ValueError(
                f"checkpoint {path} was written by DeepSpeed; resume it with the strategy that wrote it, or export it "
                "and set model.student.path"
            )
        checkpoint = load_without_code(path, "cpu")
        check_no_instantiator(checkpoint, path)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


def checked(path: Path) -> Path:
    """The checkpoint to load, complete and undamaged: the first process's `path`, on every device.

    The first process alone reads all of it, so that the devices of a machine do not read it once each. It may have
    passed over a damaged checkpoint that the others have not looked into. Called on every device.

    Raises:
        ValueError, OSError: see `avrt.model.checkpoints.check_complete`; raised on every device.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        check_complete(path)
        return path
    outcome: list[Path | Exception] = [path]
    if distributed.get_rank() == 0:
        try:
            check_complete(path)
        except (ValueError, OSError) as error:
            outcome = [error]
    distributed.broadcast_object_list(outcome, src=0)
    (found,) = outcome
    if isinstance(found, Exception):
        raise found
    return found

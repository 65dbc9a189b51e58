"""The classes that a YAML file or a command line may name.

A class path is code: naming ``os.system`` runs it. Configs are shared between people, so only the packages listed here
may be named, and a refused path is never imported. A user's own package is allowed by name, with ``--allow-classes
mypkg`` or ``AVRT_ALLOWED_CLASS_PREFIXES=mypkg``.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

ENVIRONMENT_VARIABLE = "AVRT_ALLOWED_CLASS_PREFIXES"

ALLOWED_PREFIXES = (
    "avrt",
    "datamodules",
    "lightning_modules",
    # Lightning's parts that a trainer section lists. Not the whole package: `lightning.pytorch.cli` holds functions
    # that import whatever their arguments name.
    "lightning.Callback",
    "lightning.LightningDataModule",
    "lightning.LightningModule",
    "lightning.fabric.plugins",
    "lightning.pytorch.LightningDataModule",
    "lightning.pytorch.LightningModule",
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.core",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.optim",
    "deepspeed.ops",
)
"""Dotted names that may be imported, each with everything under it."""

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def parse_prefixes(text: str, origin: str) -> tuple[str, ...]:
    """Read a comma-separated list of packages, ``mypkg,other.rewards``; a trailing dot is allowed.

    Args:
        text: the list.
        origin: the flag or variable with the list, for the message.

    Raises:
        ValueError: an entry is not a dotted name, or is one of Python's own modules or jsonargparse, which can run any
            code.
    """
    prefixes = []
    for entry in (part.strip().removesuffix(".") for part in text.split(",")):
        if not entry:
            continue
        if not _DOTTED_NAME.fullmatch(entry):
            raise ValueError(f"{origin}: {entry!r} is not the dotted name of a package, such as mypkg.rewards")
        top = entry.split(".")[0]
        if top in sys.stdlib_module_names or top == "jsonargparse":
            raise ValueError(f"{origin}: {top!r} can run any code and is never allowed; name your own package")
        prefixes.append(entry)
    return tuple(prefixes)


_granted: tuple[str, ...] = ()


@contextmanager
def granted(prefixes: Iterable[str]) -> Iterator[None]:
    """Allow the packages that a command names with ``--allow-classes``, until it ends."""
    global _granted
    before, _granted = _granted, tuple(prefixes)
    try:
        yield
    finally:
        _granted = before


def allowed_prefixes(extra: Iterable[str] = ()) -> tuple[str, ...]:
    """All allowed prefixes: the project's, those of the running command (`granted`), `extra`, and the environment's."""
    from_environment = parse_prefixes(os.environ.get(ENVIRONMENT_VARIABLE, ""), ENVIRONMENT_VARIABLE)
    return (*ALLOWED_PREFIXES, *_granted, *extra, *from_environment)


def import_object(path: str) -> Any:
    """The object that a class path names, from an allowed package.

    For paths that jsonargparse does not read. The caller checks the object's type: an allowed module also has the names
    that it imports.

    Raises:
        ValueError: the path is refused (and not imported), its module cannot be imported, or has no such name.
    """
    if not _DOTTED_NAME.fullmatch(path) or "." not in path:
        raise ValueError(f"{path!r} is not a class path, such as my_package.MY_BENCHMARK")
    if not any(f"{path}.".startswith(f"{prefix}.") for prefix in allowed_prefixes()):
        raise ValueError(refusal(path))
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"class path {path!r}: {module} cannot be imported: {error}") from error
    except AttributeError as error:
        raise ValueError(f"class path {path!r}: {error}") from error


def refusal(class_path: str) -> str:
    """Why `class_path` is refused, and how to allow it."""
    package = class_path.split(".")[0]
    if package in sys.stdlib_module_names or package == "jsonargparse":
        return f"class path {class_path!r} is refused: Python's own modules can run any code"
    return (
        f"class path {class_path!r} is refused: its package is not allowed; "
        f"if it is yours, add --allow-classes {package} to the command or set {ENVIRONMENT_VARIABLE}={package}"
    )


def enforce(prefixes: Iterable[str]) -> None:
    """Make jsonargparse refuse, before import, every path outside `prefixes`, for the rest of the process.

    This includes callables and objects that an allowed module merely imports (``avrt.cli.os.system``). Configs are read
    from local files only, and a class path where any value is accepted remains data.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=list(prefixes),
        config_read_mode_fsspec_enabled=False,
        config_read_mode_urls_enabled=False,
        instantiate_subclass_spec_in_any=False,
    )

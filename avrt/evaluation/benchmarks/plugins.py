"""Benchmarks of other packages: by class path, or by the entry points of installed packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from avrt.config.class_paths import import_object
from avrt.evaluation.benchmarks.base import Benchmark

GROUP = "avrt.benchmarks"
"""Entry point group: a package declares ``streets = "my_package:STREETS"`` in it."""


def plugin_names() -> list[str]:
    """Names of the benchmarks of installed packages; nothing is imported.

    Raises:
        ValueError: two packages declare the same name.
    """
    points = list(entry_points(group=GROUP))
    names = sorted({point.name for point in points})
    for name in names:
        origins = {f"{p.value} of {_package(p)}" for p in points if p.name == name}
        if len(origins) > 1:
            raise ValueError(f"entry point {name!r} of {GROUP} is declared twice ({', '.join(sorted(origins))})")
    return names


def load_plugin(name: str) -> tuple[Benchmark, str]:
    """The benchmark of an installed package, and its class path. Installing the package allows it.

    Raises:
        ValueError: it cannot be imported, is no benchmark, or has another name.
    """
    (point, *_) = entry_points(group=GROUP, name=name)
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{_shown(point)}: cannot be imported: {error}") from error
    benchmark = _benchmark(found, _shown(point))
    if benchmark.name != name:
        raise ValueError(f"{_shown(point)}: its benchmark is named {benchmark.name!r}; both names must be equal")
    return benchmark, point.value.replace(":", ".")


def load_class_path(path: str) -> Benchmark:
    """The benchmark at a class path.

    Raises:
        ValueError: the path is refused, cannot be imported, or names no benchmark.
    """
    # The import of an installed plugin needs no permission of its own.
    for point in entry_points(group=GROUP):
        if point.value.replace(":", ".") == path:
            return load_plugin(point.name)[0]
    return _benchmark(import_object(path), f"class path {path!r}")


def _benchmark(found: Any, origin: str) -> Benchmark:
    """The benchmark that an object is, or that a class makes without arguments."""
    if isinstance(found, type) and issubclass(found, Benchmark):
        found = found()  # type: ignore[call-arg]
    if not isinstance(found, Benchmark):
        kind = type(found).__name__
        raise ValueError(f"{origin}: is a {kind}, not a Benchmark (avrt.evaluation.benchmarks.Benchmark)")
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "a package without a name"


def _shown(point: EntryPoint) -> str:
    return f"entry point {point.name!r} of {_package(point)}"

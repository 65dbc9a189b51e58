"""The packages and their order: imports point down, without circles, lazy imports included."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from avrt import cli

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("avrt", "datamodules", "lightning_modules")
MAX_LEVELS = 9
MAX_LINES = 400
LIGHTNING = ("avrt.rewards", "datamodules", "lightning_modules")
"""The only packages that import Lightning."""

Graph = Mapping[str, set[str]]


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the project, by its dotted name; packages are named by their ``__init__``."""
    found = {}
    for source in SOURCES:
        for path in (ROOT / source).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterable[str]:
    """Names of all modules and attributes that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def imports() -> dict[str, set[str]]:
    """Imports between the project's modules."""
    graph: dict[str, set[str]] = {}
    for name, path in modules().items():
        targets = (target if target in modules() else target.rpartition(".")[0] for target in imported(path))
        graph[name] = {target for target in targets if target in modules() and target != name}
    return graph


def with_commands(graph: Graph) -> dict[str, set[str]]:
    """The graph with the commands that the command line loads by their name."""
    commands = {module for group in cli.GROUPS.values() for module, _ in group.values()}
    return {**graph, "avrt.cli": graph["avrt.cli"] | commands}


def package(module: str) -> str:
    """The package that a module belongs to; a module directly in ``avrt`` counts as one of its own."""
    if modules()[module].name == "__init__.py":
        return module
    owner = module.rpartition(".")[0]
    return module if owner == "avrt" else owner


def package_imports(modules_graph: Graph) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = defaultdict(set)
    for module, targets in modules_graph.items():
        graph[package(module)] |= {package(target) for target in targets} - {package(module)}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Every circle found by a depth-first walk, as the path that closes it."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
        elif node not in done:
            for target in sorted(graph.get(node, ())):
                walk(target, [*path, node])
            done.add(node)

    for node in sorted(graph):
        walk(node, [])
    return found


def test_no_circles_between_modules() -> None:
    assert circles(with_commands(imports())) == []


def test_no_circles_between_packages() -> None:
    assert circles(package_imports(with_commands(imports()))) == []


def test_few_levels() -> None:
    graph = package_imports(imports())

    @functools.cache
    def level(name: str) -> int:
        return 1 + max((level(target) for target in graph.get(name, ())), default=0)

    assert max(map(level, graph)) <= MAX_LEVELS


def test_few_modules_directly_in_the_package() -> None:
    loose = [path.name for path in (ROOT / "avrt").glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= 4, loose


def test_no_long_files() -> None:
    files = [path for folder in (*SOURCES, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    files += (ROOT / "avrt").rglob("*.js")
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_lightning_stays_in_its_packages() -> None:
    users = {
        name
        for name, path in modules().items()
        if any(target.split(".")[0] in ("lightning", "pytorch_lightning") for target in imported(path))
    }
    assert {name for name in users if not name.startswith(LIGHTNING)} == set()


def test_the_architecture_page_lists_the_packages_in_order() -> None:
    """Each package is in one row of the page's table and imports only from its own row and those below it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = ("| `avrt/", "| `data", "| `lightning")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith(named)]
    place: dict[str, int] = {}
    for number, row in enumerate(rows):
        first = ""
        for name in re.findall(r"`([\w/.]+)`", row):
            path = name if "/" in name.rstrip("/") or name.rstrip("/") in SOURCES else f"{first}/{name}"
            first = first or path.rstrip("/")
            place[path.rstrip("/").removesuffix(".py").replace("/", ".")] = number
    graph = package_imports(imports())
    assert set(place) == set(graph) - {"avrt", "avrt.__main__"}
    up = {(a, b) for a, targets in graph.items() for b in targets & set(place) if a in place and place[b] < place[a]}
    assert up == set()

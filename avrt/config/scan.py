"""Looks through config files and command-line values before anything is imported or built from them.

Reads only the structure of the YAML (PyYAML's node tree), so nothing in a file can run, and answers in milliseconds,
long before the training stack is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avrt.config.class_paths import is_allowed, refusal
from avrt.config.errors import UsageError

if TYPE_CHECKING:
    import yaml

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")
)

MAX_VALUES = 100_000
"""Values that a config may have. The parser copies what anchors name, so a small file could take hours."""


def scan_arguments(arguments: Sequence[str], subcommands: Sequence[str], prefixes: Sequence[str]) -> None:
    """Checks the config files and the values that a command line gives.

    Args:
        arguments: the words after the subcommand.
        subcommands: names under which a config file may nest its settings.
        prefixes: allowed class-path prefixes.

    Raises:
        UsageError: a config file that is missing or is no YAML, a Python tag, a key given twice, a ``config:`` key, or
            a class path outside `prefixes`. The message names file, line and key.
    """
    for option, value in _options(arguments):
        if option in ("--config", "-c"):
            if value is None:
                raise UsageError(f"{option}: expects a file, for example {option} cli_configs/grpo_tiny.yaml")
            if value.lstrip().startswith(("{", "[")):
                scan_text(value, option, subcommands, prefixes)
            else:
                scan_file(Path(value), subcommands, prefixes)
        elif value is None:
            continue
        elif option.endswith((".class_path", ".help")):
            if not is_allowed(value, prefixes):
                raise UsageError(f"{option}: {refusal(value)}")
        elif value.lstrip().startswith(("{", "[")):
            scan_text(value, option, (), prefixes, whole_config=False)


def scan_file(path: Path, subcommands: Sequence[str], prefixes: Sequence[str]) -> None:
    """Checks one config file; see `scan_arguments`."""
    if not path.is_file():
        raise UsageError(_missing_file(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not a YAML text file; save it as UTF-8 ({error})") from error
    scan_text(text, str(path), subcommands, prefixes)


def scan_text(
    text: str, source: str, subcommands: Sequence[str], prefixes: Sequence[str], whole_config: bool = True
) -> None:
    """Checks one YAML text; `source` names it in messages, `whole_config` says that it is a whole run's settings."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        if not whole_config:
            return  # an option's value may start with a bracket and be no YAML; its own type judges it
        raise UsageError(f"{source}: is not valid YAML: {_yaml_problem(error)}") from error
    if root is None:
        if whole_config:
            raise UsageError(f"{source}: has no settings; a config is a mapping of keys (trainer:, model:, data:)")
        return
    if whole_config:
        if not isinstance(root, yaml.MappingNode):
            raise UsageError(
                f"{source}: a config must be a mapping of keys (trainer:, model:, data:), is a list or a single value"
            )
        _check_sections(root, source, subcommands)
    if _expanded_size(root, {}) > MAX_VALUES:
        raise UsageError(f"{source}: its anchors (&name, *name) unfold without end or measure; write the values out")
    for key, node in _walk(root, ""):
        where = _at(source, node)
        if node.tag not in _PLAIN_TAGS:
            raise UsageError(
                f"{where}: {key or 'the file'}: the tag {_short_tag(node.tag)} is refused; use plain values"
            )
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated_keys(node, key, source)
        elif _names_a_class(key, node) and not is_allowed(node.value, prefixes):
            raise UsageError(f"{where}: {key}: {refusal(node.value)}")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Pairs each option with its value, given as ``--key=value`` or as the next word."""
    for index, word in enumerate(arguments):
        if not word.startswith("-"):
            continue
        option, equals, value = word.partition("=")
        if equals:
            yield option, value
        elif word.startswith("-c") and len(word) > 2 and not word.startswith("--"):
            yield "-c", word[2:]
        else:
            following = arguments[index + 1] if index + 1 < len(arguments) else None
            yield option, following


def _walk(root: yaml.Node, key: str) -> Iterator[tuple[str, yaml.Node]]:
    """Every node with its dotted key; what an anchor names is entered once, so a loop of anchors ends."""
    import yaml

    pending = [(key, root)]
    seen = set()
    while pending:
        key, node = pending.pop()
        if id(node) in seen and not isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        yield key, node
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                pending.append(("", key_node))
                pending.append((f"{key}.{_scalar(key_node)}".removeprefix("."), value_node))
        elif isinstance(node, yaml.SequenceNode):
            pending.extend((f"{key}[{index}]", item) for index, item in enumerate(node.value))


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Values below a node once every anchor is written out; what contains itself counts as too many."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = MAX_VALUES + 1  # until all below it is counted
        children = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]


def _check_sections(root: yaml.MappingNode, source: str, subcommands: Sequence[str]) -> None:
    import yaml

    for key_node, value_node in root.value:
        key = _scalar(key_node)
        if key == "config":
            raise UsageError(
                f"{_at(source, key_node)}: config: a config inside a config is merged shallowly, "
                "which loses settings; remove the key and give the file as a second --config on the command line"
            )
        if key == "trainer" and not isinstance(value_node, yaml.MappingNode):
            raise UsageError(f"{_at(source, key_node)}: trainer: must be a mapping of settings, such as max_steps: 10")
        if key in subcommands and isinstance(value_node, yaml.MappingNode):
            _check_sections(value_node, source, ())


def _refuse_repeated_keys(node: yaml.MappingNode, key: str, source: str) -> None:
    first_lines: dict[str, int] = {}
    for key_node, _ in node.value:
        name = _scalar(key_node)
        if name in first_lines and name != "<<":
            full = f"{key}.{name}".removeprefix(".")
            raise UsageError(
                f"{_at(source, key_node)}: {full}: is given twice (first in line {first_lines[name]}); keep one of them"
            )
        first_lines[name] = key_node.start_mark.line + 1


def _names_a_class(key: str, node: yaml.Node) -> bool:
    return key.rpartition(".")[2] == "class_path" and isinstance(node.value, str)


def _at(source: str, node: yaml.Node) -> str:
    return f"{source}, line {node.start_mark.line + 1}"


def _scalar(node: yaml.Node) -> str:
    return node.value if isinstance(node.value, str) else "?"


def _short_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _yaml_problem(error: yaml.YAMLError) -> str:
    """The parser's complaint with its line, without the file's own text."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)


def _missing_file(path: Path) -> str:
    folder = path.parent
    message = f"--config {path}: no such file"
    if path.is_dir():
        return f"--config {path}: is a folder; name one of its .yaml files"
    if not folder.is_dir():
        return f"{message} (there is no folder {folder})"
    near = difflib.get_close_matches(path.name, sorted(entry.name for entry in folder.glob("*.yaml")), n=1)
    return f"{message}; did you mean {folder / near[0]}?" if near else message

"""Checks of a config file's text before anything heavy is imported: mistakes that the parser would accept silently.

Reads only the structure of the YAML (PyYAML's node tree), so nothing in a file can run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avrt.config.errors import UsageError, one_line

if TYPE_CHECKING:
    import yaml

_PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge")
)

MAX_VALUES = 100_000
"""Values that a config may have. The parser copies what anchors name, so a small file could take hours."""

MAX_DEPTH = 50
"""Levels of mappings and lists in a config. Python stops at a few hundred calls inside each other."""

MAX_DIGITS = 400
"""Digits of a whole number; the largest float has 309."""


def scan_arguments(arguments: Sequence[str]) -> None:
    """Check the config files that a command line gives.

    Args:
        arguments: the words after the command.

    Raises:
        UsageError: a config file is missing or not valid YAML, has a Python tag, a key given twice or a ``config:``
            key, or anything is nested too deeply. The message names file, line and key.
    """
    scan_values(arguments)
    for value in _config_values(arguments):
        if not value.lstrip().startswith(("{", "[")):  # settings as text in place of a file
            scan_file(Path(value))


def scan_values(words: Sequence[str]) -> None:
    """Refuse options whose value is nested too deeply, or is a number of too many digits.

    Raises:
        UsageError: names the option.
    """
    option = "the command line"
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            option = name if equals else word[:80]
        value = value if equals and word.startswith("-") else word
        if _most_brackets(value) > MAX_DEPTH:
            raise UsageError(f"{option}: is nested in more than {MAX_DEPTH} levels")
        if re.search(rf"\d{{{MAX_DIGITS + 1}}}", value):
            raise UsageError(f"{option}: has a number of more than {MAX_DIGITS} digits")


def _most_brackets(text: str) -> int:
    depth = most = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        most = max(most, depth)
    return most


def scan_file(path: Path) -> None:
    """Check one config file; see `scan_arguments`."""
    if not path.is_file():
        raise UsageError(_missing_file(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not a YAML text file; save it as UTF-8 ({error})") from error
    scan_text(text, str(path))


def scan_text(text: str, source: str) -> None:
    """Check one config's text; `source` names it in messages."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: is not valid YAML: {_yaml_problem(error)}") from error
    except RecursionError:
        raise UsageError(f"{source}: is nested in more than {MAX_DEPTH} levels") from None
    if not isinstance(root, yaml.MappingNode):
        found = "is empty" if root is None else "is a list or a single value"
        raise UsageError(f"{source}: a config must be a mapping of keys (trainer:, model:, data:), {found}")
    for key_node, _ in root.value:
        if _scalar(key_node) == "config":
            raise UsageError(
                f"{_at(source, key_node)}: config: a config inside a config is merged shallowly, "
                "which loses settings; remove the key and give the file as a second --config on the command line"
            )
    try:
        values, depth = _expanded_size(root, {})
    except RecursionError:
        values, depth = 0, MAX_DEPTH + 1
    if values > MAX_VALUES:
        raise UsageError(f"{source}: its anchors (&name, *name) expand to too many values; write the values out")
    if depth > MAX_DEPTH:
        raise UsageError(f"{source}: is nested in more than {MAX_DEPTH} levels")
    for key, node in _walk(root, ""):
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise UsageError(f"{_at(source, node)}: {key or 'the file'}: the tag {tag} is refused; use plain values")
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
            raise UsageError(f"{_at(source, node)}: {key or 'the file'}: has more than {MAX_DIGITS} digits")
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated_keys(node, key, source)


def _config_values(arguments: Sequence[str]) -> Iterator[str]:
    """Values of ``--config FILE``, ``--config=FILE``, ``-c FILE`` and ``-cFILE``."""
    for index, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option in ("--config", "-c"):
            if not equals:
                value = next(iter(arguments[index + 1 :]), "")
                if not value:
                    raise UsageError(f"{option}: expects a file, for example {option} cli_configs/grpo_tiny.yaml")
            yield value
        elif word.startswith("-c") and len(word) > 2:
            yield word[2:]


def _walk(root: yaml.Node, key: str) -> Iterator[tuple[str, yaml.Node]]:
    """Every node with its dotted key; what an anchor names is entered once, so a loop of anchors ends."""
    import yaml

    pending = [(key, root)]
    seen = set()
    while pending:
        key, node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield key, node
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                pending.append(("", key_node))
                pending.append((f"{key}.{_scalar(key_node)}".removeprefix("."), value_node))
        elif isinstance(node, yaml.SequenceNode):
            pending.extend((f"{key}[{index}]", item) for index, item in enumerate(node.value))


def _expanded_size(node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values and levels below a node once every anchor is written out; what contains itself has too many values."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) not in sizes:
        sizes[id(node)] = MAX_VALUES + 1, 0  # until all below it is counted
        children = [n for pair in node.value for n in pair] if isinstance(node, yaml.MappingNode) else node.value
        below = [_expanded_size(child, sizes) for child in children]
        sizes[id(node)] = 1 + sum(count for count, _ in below), 1 + max((depth for _, depth in below), default=0)
    return sizes[id(node)]


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


def _at(source: str, node: yaml.Node) -> str:
    return f"{source}, line {node.start_mark.line + 1}"


def _scalar(node: yaml.Node) -> str:
    return node.value if isinstance(node.value, str) else "?"


def _yaml_problem(error: yaml.YAMLError) -> str:
    """The parser's complaint with its line, without the file's own text."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return one_line(error)


def _missing_file(path: Path) -> str:
    folder = path.parent
    message = f"--config {path}: no such file"
    if path.is_dir():
        return f"--config {path}: is a folder; name one of its .yaml files"
    if not folder.is_dir():
        return f"{message} (there is no folder {folder})"
    near = difflib.get_close_matches(path.name, sorted(entry.name for entry in folder.glob("*.yaml")), n=1)
    return f"{message}; did you mean {folder / near[0]}?" if near else message

"""Error messages of one line: the key or file, the fault, and how to fix it.

jsonargparse reports a wrong value with every alternative that it tried, nested by type. `distil` extracts the key and
the value that it should have.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from avrt.config.class_paths import refusal


class UsageError(ValueError):
    """The command line or a config file asks for something that cannot be done. Exit status 2."""


_TYPE_NAMES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list"}

MOST_LISTED = 12
"""Keys that an error lists at most when none is near."""

_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}

Lookup = Callable[[str], Iterable[str]]
"""Accepted names: for ``""`` the config's own keys, for a class path the arguments of that class, for a module its
classes."""


def one_line(text: object) -> str:
    """`text` on one line, with runs of white space as one space."""
    return " ".join(str(text).split())


def describe(error: BaseException) -> str:
    """One line for an exception; the file first for an `OSError` that has one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        target = f" -> {error.filename2}" if error.filename2 is not None else ""
        # Some libraries pass file names as bytes.
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return one_line(f"{name}{target}: {error.strerror}{_cache_hint(error.errno, str(name))}")
    return one_line(error) or type(error).__name__


def _cache_hint(number: int | None, path: str) -> str:
    """How to move a cache elsewhere, if the path is in one that cannot be written."""
    if number not in _NOT_WRITABLE:
        return ""
    folders = Path(path).parts
    if ".triton" in folders:
        return "; set TRITON_HOME to a writable folder with free space"
    if "torch_extensions" in folders:
        return "; set TORCH_EXTENSIONS_DIR, or XDG_CACHE_HOME for all caches, to a writable folder"
    if ".cache" in folders or path.startswith(os.environ.get("XDG_CACHE_HOME") or "\0"):
        return "; set XDG_CACHE_HOME to a writable folder with free space (or AVRT_CACHE for avrt's own data)"
    return ""


def suggest(name: str, accepted: Iterable[str]) -> str:
    """``; did you mean 'max_steps'?`` for a near miss, or nothing."""
    near = difflib.get_close_matches(name, sorted(set(accepted)), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def distil(message: str, lookup: Lookup, example: str = "cli_configs/grpo_tiny.yaml") -> str:
    """One line for an error message of jsonargparse: the key in its short form (without ``init_args``), and the fault.

    Args:
        message: the text of its `ArgumentError`.
        lookup: returns the accepted names, for near misses.
        example: a config file to suggest where a key is missing.
    """
    keys, owner, text = _keys(message), "", message
    while found := _problem_block(text):
        owner, text = found
        keys += _keys(text)
    key = ".".join(keys)
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    if denied:
        return f"{key}: {refusal(denied[1])}".removeprefix(": ")
    return _unknown(key, owner, text, lookup) or _missing(key, owner, text, lookup, example) or _wrong_value(key, text)


def _keys(message: str) -> list[str]:
    """The outermost key that the message names, as a list of one or none."""
    found = re.search(r'Parser key "([^"]+)"', message.partition("Problem with given class_path")[0])
    return [found[1]] if found else []


def _problem_block(message: str) -> tuple[str, str] | None:
    """The class of the first ``Problem with given class_path 'C':`` and the indented lines below it."""
    found = re.search(r"^(\s*(?:- )?)Problem with given class_path '([^']+)'.*\n", message, re.MULTILINE)
    if not found:
        return None
    indent = " " * len(found[1])
    lines = message[found.end() :].splitlines()
    return found[2], "\n".join(itertools.takewhile(lambda line: not line or line.startswith(indent), lines))


def _unknown(key: str, owner: str, text: str, lookup: Lookup) -> str:
    """An unknown key, in a file or as an option; a word that is not an option."""
    found = re.search(
        r"(?:Group '([^']+)' )?does not accept option '([^']+)'|Option '([^']+)' is not accepted"
        r"|unrecognized arguments: --([\w.]+)",
        text,
    )
    if found:
        name = ".".join(filter(None, found.groups()))
        return unknown_key(key, name, lookup(owner))
    word = re.search(r"unrecognized arguments: (\S+)", text)
    return f"{word[1]!r} is not understood here; settings are given as --key=value" if word else ""


def unknown_key(key: str, name: str, accepted: Iterable[str]) -> str:
    """The error for a key that does not exist.

    Args:
        key: of the settings that it is among; empty for a config's own.
        name: the unknown key, with those below it.
        accepted: keys that exist there.
    """
    return f"{f'{key}.{name}'.removeprefix('.')}: unknown key{_near(name, accepted)}"


def _near(name: str, accepted: Iterable[str]) -> str:
    """A near name for the first unknown part of a dotted key, or the names of its level if nothing is near."""
    known, parent = list(accepted), ""
    for part in name.split("."):
        level = {full.removeprefix(parent).split(".")[0] for full in known if full.startswith(parent)}
        if part not in level:
            if suggestion := suggest(part, level):
                return suggestion
            return f"; choose from {', '.join(sorted(level))}" if 0 < len(level) <= MOST_LISTED else ""
        parent += f"{part}."
    return ""


def _missing(key: str, owner: str, text: str, lookup: Lookup, example: str) -> str:
    """A required key, an option's value, or a class that is missing."""
    required = re.search(r"the following arguments are required: ([\w.]+)", text)
    if required and owner:
        return f"{key}.{required[1]}: is required and missing"
    if required:
        name = re.sub(r"^(fit|validate|test|predict)\.", "", required[1])
        return f"{name}: is required and missing; give it in a --config file, such as {example}"
    no_value = re.search(r"argument (\S+): expected one argument", text)
    if no_value:
        return f"{no_value[1]}: expects a value"
    if re.search(r"module '[^']+' has no attribute '|No module named '", text):
        module, _, name = owner.rpartition(".")
        return f"{key}: there is no class {owner!r}{suggest(name, lookup(module))}"
    return ""


def _wrong_value(key: str, text: str) -> str:
    """A value of the wrong type or outside the choices."""
    kind = re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", text)
    if kind:
        return f"{key}: {kind[1] or _given(text)} is not a subclass of {kind[2]}"
    if "NestedArg(key=" in text:
        return f"{key}: is a name, which takes no settings of its own; write class_path and init_args below it instead"
    if section := re.search(r"Unexpected config: (\w+):", text):
        return f"{section[1]}: must be a mapping of settings; got nothing or a single value"
    expected: list[str] = []
    pattern = r"Literal\[([^\]]+)\]|Not of type (\w+): (?:must be ([^.\n]+))?|Expected an? <class '(\w+)"
    for literals, restricted, wording, name in re.findall(pattern, text):
        if name != "NoneType":
            name = restricted or name
            expected.append(f"one of {literals}" if literals else wording or _TYPE_NAMES.get(name, name))
    if "Subclass types expect one of" in text or (expected and "Expected a dot import path string" in text):
        expected.append("a class, given as `class_path: ...` and `init_args: ...`")
    if expected:
        return f"{key}: must be {' or '.join(dict.fromkeys(expected))}; got {_given(text)}"
    lines = [line.strip(" -") for line in text.splitlines() if not line.startswith("Parser key")]
    return f"{key}: {lines[lines.index('Errors:') + 1] if 'Errors:' in lines else one_line(' '.join(lines))}"


def _given(text: str, limit: int = 80) -> str:
    """The offending value, shortened."""
    found = re.search(r"(?:Got|Given) value: (.+)", text)
    value = one_line(found[1]) if found else "something else"
    return repr(value) if len(value) <= limit and not value.startswith(("{", "[", "Namespace(")) else value[:limit]

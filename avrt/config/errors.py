"""Turns the parser's long, nested error messages into one line that names the key and the mend.

jsonargparse reports a wrong value with every alternative that it tried, nested by type. The one fact that a user needs,
which key and what it should be, is in there; `distil` takes it out.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from avrt.config.class_paths import refusal
from avrt.config.numbers import WORDING


class UsageError(ValueError):
    """The command line or a config file asks for something that cannot be done. Exit status 2."""


_TYPE_NAMES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "list": "a list"}

_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}

Lookup = Callable[[str], Iterable[str]]
"""Names that are accepted: given ``""`` the config's own keys, given a class path the arguments of that class, and
given a module the classes in it."""


def one_line(text: object) -> str:
    """`text` on one line, with runs of white space as one space."""
    return " ".join(str(text).split())


def describe(error: BaseException) -> str:
    """One line for an exception; the file first for an `OSError` that has one."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        target = f" -> {error.filename2}" if error.filename2 is not None else ""
        # Some libraries hand the system their names as bytes.
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return one_line(f"{name}{target}: {error.strerror}{_cache_hint(error.errno, str(name))}")
    return one_line(error) or type(error).__name__


def _cache_hint(number: int | None, path: str) -> str:
    """How to move the caches elsewhere, for a path in one of them that cannot be written."""
    if number not in _NOT_WRITABLE:
        return ""
    folders = Path(path).parts
    if ".triton" in folders:
        return "; set TRITON_HOME to a folder that can be written and has room"
    if "torch_extensions" in folders:
        return "; set TORCH_EXTENSIONS_DIR, or XDG_CACHE_HOME for all caches, to a folder that can be written"
    if ".cache" in folders or path.startswith(os.environ.get("XDG_CACHE_HOME") or "\0"):
        return "; set XDG_CACHE_HOME to a folder that can be written and has room (or AVRT_CACHE for the demo's data)"
    return ""


def suggest(name: str, accepted: Iterable[str]) -> str:
    """``; did you mean 'max_steps'?`` for a near miss, or nothing."""
    near = difflib.get_close_matches(name, sorted(set(accepted)), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def distil(message: str, lookup: Lookup) -> str:
    """The one line that an error message of jsonargparse comes down to.

    Args:
        message: the text of its `ArgumentError`.
        lookup: tells the accepted names, for near misses.
    """
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    key = _key(message)
    # First, for without its class_path or init_args an entry is taken for something else altogether.
    if "Subclass types expect one of" in message:
        for name in _given_keys(message):
            if misspelt := _misspelt_form(key, name):
                return misspelt
    if denied:
        return f"{key}: {refusal(denied[1])}".removeprefix(": ")
    problem = _problem_block(message)
    if problem:
        class_path, block = problem
        return _in_class(key, class_path, block, message, lookup)
    return _unknown_key(message, lookup) or _missing_key(message, key) or _wrong_value(message, key)


def _key(message: str) -> str:
    """The outermost key that the message names."""
    found = re.search(r'Parser key "([^"]+)"', message)
    return found[1] if found else ""


def _problem_block(message: str) -> tuple[str, str] | None:
    """The first ``Problem with given class_path 'C':`` and the indented lines below it."""
    lines = message.splitlines()
    for index, line in enumerate(lines):
        found = re.match(r"(\s*(?:- )?)Problem with given class_path '([^']+)'", line)
        if not found:
            continue
        depth = len(found[1])
        block = []
        for below in lines[index + 1 :]:
            if len(below) - len(below.lstrip()) < depth:
                break
            block.append(below)
        return found[2], "\n".join(block)
    return None


def _in_class(key: str, class_path: str, block: str, message: str, lookup: Lookup) -> str:
    """A problem inside one class's arguments; `block` may hold the same kind of problem one class further in.

    Args:
        key: where the class stands in the config.
        class_path: the class.
        block: what is wrong with its arguments.
        message: the text that `block` was taken from; it ends with the value as it was given.
        lookup: tells the accepted names.
    """
    # A dataclass is given by its fields alone, without class_path and init_args.
    given = message.rpartition("Given value:")[2].strip()
    fields_only = given.startswith("{") and "class_path" not in given
    if fields_only and given.startswith("{'init_args'"):
        return f"{key}: class_path is missing"
    arguments = key if fields_only else f"{key}.init_args"
    owner = class_path.rpartition(".")[2]
    inner_key = _key(block)
    inner = _problem_block(block)
    if inner and inner_key:
        return _in_class(f"{arguments}.{inner_key}", *inner, block, lookup)
    unknown = re.search(r"Option '([^']+)' is not accepted", block)
    in_group = re.search(r"Group '([^']+)' does not accept option '([^']+)'", block)
    as_word = re.search(r"unrecognized arguments: --([\w.]+)", block)
    if unknown or in_group or as_word:
        name = f"{in_group[1]}.{in_group[2]}" if in_group else (unknown or as_word)[1]  # type: ignore[index]
        misspelt = _misspelt_form(key, name.split(".")[0])
        if misspelt:
            return misspelt
        return f"{arguments}.{name}: {owner} has no such argument{_mend(name, lookup(class_path))}"
    missing = re.search(r"the following arguments are required: (.+)", block)
    if missing:
        return f"{arguments}.{missing[1].strip()}: is required by {owner} and missing"
    absent = re.search(r"module '([^']+)' has no attribute '([^']+)'", block)
    if absent and absent[2] == owner:
        return f"{key}.class_path: {absent[1]} has no class {owner!r}{suggest(owner, lookup(absent[1]))}"
    no_module = re.search(r"No module named '([^']+)'", block)
    if absent or no_module:
        module = f"{absent[1]}.{absent[2]}" if absent else no_module[1] if no_module else ""
        return f"{key}.class_path: {class_path!r} cannot be imported: there is no module {module!r}"
    if inner_key:
        return _wrong_value(block, f"{arguments}.{inner_key}")
    return f"{key}: {class_path}: {one_line(block)}"


def _mend(name: str, accepted: Iterable[str]) -> str:
    """A near name of the same level, or the whole list of them when nothing is near."""
    parent, _, last = name.rpartition(".")
    level = {full.rpartition(".")[2] for full in accepted if full.rpartition(".")[0] == parent}
    if near := difflib.get_close_matches(last, sorted(level), n=1):
        return f"; did you mean {'.'.join(filter(None, (parent, near[0])))!r}?"
    return f"; {parent or 'it'} accepts {', '.join(sorted(level))}" if level else ""


def _unknown_key(message: str, lookup: Lookup) -> str:
    option = re.search(r"does not accept option '([^']+)'", message) or re.search(
        r"Option '([^']+)' is not accepted", message
    )
    if option:
        return _unknown(option[1], lookup(""))
    words = re.search(r"unrecognized arguments: (.+)", message)
    if not words:
        return ""
    name = words[1].split()[0].split("=")[0]
    if not name.startswith("--"):
        return f"{name!r} is not understood here; settings are given as --key=value"
    return f"--{_unknown(name.removeprefix('--'), lookup(''))}"


def _unknown(name: str, accepted: Iterable[str]) -> str:
    """Says which part of a dotted key is unknown: the section, or the setting in a known section."""
    known = set(accepted)
    sections = {full.split(".")[0] for full in known}
    section, _, rest = name.partition(".")
    if section not in sections:
        return f"{section}: unknown key{_mend(section, sections)}"
    siblings = [full.partition(".")[2] for full in known if full.startswith(f"{section}.")]
    return f"{name}: unknown key{suggest(rest, siblings)}"


def _missing_key(message: str, key: str) -> str:
    missing = re.search(r"the following arguments are required: (\S+)", message)
    if missing:
        first = missing[1].rstrip(",")
        name = ".".join(part for part in (key, re.sub(r"^(fit|validate|test|predict)\.", "", first)) if part)
        return f"{name}: is required and missing; give it in a --config file, such as cli_configs/grpo_tiny.yaml"
    no_value = re.search(r"argument (\S+): expected one argument", message)
    return f"{no_value[1]}: expects a value" if no_value else ""


def _wrong_value(message: str, key: str) -> str:
    """A value of the wrong type or outside the choices."""
    kind = re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", message)
    if kind:
        return f"{key}: {kind[1] or _given(message)} is not a {kind[2]}"
    bare = re.search(r"Expected a dot import path string: (\S+)", message)
    if bare:
        return f"{key}: {bare[1]!r} is not a known class; give its full class path"
    types, choices = [], []
    types += [WORDING[name] for name in re.findall(r"Not of type (\w+)", message) if name in WORDING]
    for literals, type_name in re.findall(r"Expected an? (?:typing\.Literal\[([^\]]+)\]|<class '([^']+)'>)", message):
        if literals:
            choices.extend(literals.split(", "))
        elif type_name != "NoneType":
            types.append(_TYPE_NAMES.get(type_name, type_name))
    if "Subclass types expect one of" in message:
        types.append("a class, given as `class_path: ...` and `init_args: ...`")
    if choices:
        types.append(f"one of {', '.join(dict.fromkeys(choices))}")
    if types:
        return f"{key}: must be {' or '.join(dict.fromkeys(types))}; is {_given(message)}"
    rest = re.sub(r'^Parser key "[^"]+":', "", message)
    return f"{key}: {one_line(rest)}".removeprefix(": ")


def _misspelt_form(key: str, name: str) -> str:
    """The line for a key that is nearly ``class_path`` or ``init_args``, or nothing."""
    near = difflib.get_close_matches(name, ("class_path", "init_args"), n=1, cutoff=0.75)
    return f"{key}: unknown key {name!r}; did you mean {near[0]!r}?" if near and name != near[0] else ""


def _given_keys(message: str) -> list[str]:
    """The keys of the mappings in the value that the message quotes."""
    return re.findall(r"[{,] *'(\w+)': ", message.rpartition("Given value:")[2])


def _given(message: str, limit: int = 80) -> str:
    """The offending value, shortened."""
    found = re.search(r"Got value: (.+)", message) or re.search(r"Given value: (.+)", message, flags=re.DOTALL)
    text = one_line(found[1]) if found else "something else"
    return repr(text) if len(text) <= limit and not text.startswith(("{", "[", "Namespace(")) else f"{text[:limit]}"

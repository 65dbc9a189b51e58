"""Parameters of classes, read from their source without importing anything.

Importing a training module imports torch, transformers and Lightning: many seconds before a mistyped key could be
reported. Here a module is found by its path, parsed, and its classes are looked up by name.

Only what the source states plainly is answered. Everything else is None: the parser, which imports the classes, checks
it later.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

_MOST_STEPS = 20
"""Re-exports and base classes that are followed; a circle of imports must end."""

_KEEP_ARGUMENTS = frozenset({"_defaults_from_env_vars"})
"""Decorators of an ``__init__`` that do not change its arguments: that of Lightning's trainer fills in values."""

_NO_PARAMETERS = frozenset({"object", "abc.ABC", "typing.Generic", "typing.Protocol"})


@dataclass(frozen=True)
class SourceClass:
    """A class in a source file.

    Attributes:
        module: its module's dotted name.
        node: its definition.
    """

    module: str
    node: ast.ClassDef

    @property
    def is_dataclass(self) -> bool:
        return _dataclass_decorator(self.node) is not None


Parameters = Mapping[str, tuple[str, ast.expr | None]]
"""Of each parameter the module that its annotation is written in, and the annotation."""


def find_class(path: str, steps: int = _MOST_STEPS) -> SourceClass | None:
    """The class that a dotted path names, through re-exports; None if the source does not say."""
    module, _, name = path.rpartition(".")
    names = _names(module) if module and steps else None
    found = None if names is None else names.get(name)
    if isinstance(found, ast.ClassDef):
        return SourceClass(module, found)
    return find_class(found, steps - 1) if isinstance(found, str) else None


def parameters(owner: SourceClass, steps: int = _MOST_STEPS) -> Parameters | None:
    """The parameters that `owner` is built with; None if the source does not say."""
    if not steps or owner.node.keywords:  # a metaclass may build as it likes
        return None
    if owner.is_dataclass:
        return _fields(owner, steps)
    if owner.node.decorator_list or _hides_init(owner.node):
        return None
    for statement in owner.node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            changed = [d for d in statement.decorator_list if ast.unparse(d) not in _KEEP_ARGUMENTS]
            return None if changed else _arguments(statement, owner.module)
    bases = list(_bases(owner, steps))
    found = [None if base is None else parameters(base, steps - 1) for base in bases]
    if any(one is None for one in found):
        return None
    # Of several bases with arguments Python's order decides, which is not always that of the text.
    having = [one for one in found if one]
    if len(having) > 1:
        return None
    return having[0] if having else {}


def _hides_init(node: ast.ClassDef) -> bool:
    """Whether the body of a class binds ``__init__`` in another way than by a ``def`` of its own."""
    direct = {statement for statement in node.body if isinstance(statement, ast.FunctionDef)}
    for statement in node.body:
        for part in ast.walk(statement):
            if isinstance(part, ast.Name) and part.id == "__init__" and isinstance(part.ctx, ast.Store):
                return True
            if isinstance(part, ast.FunctionDef) and part.name == "__init__" and part not in direct:
                return True
    return False


def derives_from(owner: SourceClass, name: str, steps: int = _MOST_STEPS) -> bool:
    """Whether a class, or one of those it is derived from, is called `name`, as far as the source says."""
    if owner.node.name == name:
        return True
    bases = _bases(owner, steps) if steps else ()
    return any(base is not None and derives_from(base, name, steps - 1) for base in bases)


def arguments_of(owner: SourceClass, method: str) -> list[str] | None:
    """Names of a method's arguments without ``self``; None if the class does not define it."""
    for statement in owner.node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == method:
            return list(_arguments(statement, owner.module) or {})
    return None


def alternatives(module: str, annotation: ast.expr | None) -> list[str] | None:
    """Dotted names of the types in a union; names of builtins stay as they are. None for what is not a name."""
    match annotation:
        case ast.Constant(value=None):
            return ["None"]
        case ast.Constant(value=str(text)):
            try:
                return alternatives(module, ast.parse(text, mode="eval").body)
            except SyntaxError:
                return None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            parts = alternatives(module, left), alternatives(module, right)
            return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
        case ast.Name() | ast.Attribute():
            name = _dotted(annotation, module)
            return None if name is None else [name]
    return None


def _fields(owner: SourceClass, steps: int) -> Parameters | None:
    decorator = _dataclass_decorator(owner.node)
    if len(owner.node.decorator_list) > 1 or (
        isinstance(decorator, ast.Call) and any(option.arg in (None, "init") for option in decorator.keywords)
    ):
        return None
    found: dict[str, tuple[str, ast.expr | None]] = {}
    for base in _bases(owner, steps):
        inherited = None if base is None else parameters(base, steps - 1)
        if inherited is None:
            return None
        found |= inherited
    for statement in owner.node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _arguments(statement, owner.module)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            kind = ast.unparse(statement.annotation)
            if "KW_ONLY" in kind or "InitVar" in kind:
                return None
            if "ClassVar" not in kind and "init=False" not in ast.unparse(statement).replace(" ", ""):
                found[statement.target.id] = (owner.module, statement.annotation)
    return found


def _arguments(function: ast.FunctionDef, module: str) -> Parameters | None:
    """None where arguments are passed on by ``**kwargs``: the parser follows them."""
    given = function.args
    if given.kwarg is not None or given.vararg is not None:
        return None
    named = [*given.posonlyargs, *given.args][1:]
    return {argument.arg: (module, argument.annotation) for argument in [*named, *given.kwonlyargs]}


def _bases(owner: SourceClass, steps: int) -> Iterator[SourceClass | None]:
    """Base classes that may have parameters; None for one that cannot be found."""
    for base in owner.node.bases:
        name = _dotted(base.value if isinstance(base, ast.Subscript) else base, owner.module)
        if name is None:
            yield None
        elif name not in _NO_PARAMETERS:
            yield find_class(name, steps - 1)


def _dataclass_decorator(node: ast.ClassDef) -> ast.expr | None:
    for decorator in node.decorator_list:
        function = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(function).rpartition(".")[2] == "dataclass":
            return decorator
    return None


def _dotted(node: ast.expr, module: str) -> str | None:
    """The full name behind a name in a module's source."""
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, module)
        return None if owner is None else f"{owner}.{node.attr}"
    if not isinstance(node, ast.Name):
        return None
    found = (_names(module) or {}).get(node.id, node.id)
    if isinstance(found, str):
        return found
    return f"{module}.{node.id}"


@functools.cache
def _names(module: str) -> Mapping[str, ast.AST | str] | None:
    """What a module's top level defines: classes and other statements by name, imported names as dotted paths."""
    file = _source_file(module)
    if file is None:
        return None
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: dict[str, ast.AST | str] = {}
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names[statement.name] = statement
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                top = alias.name.partition(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(statement, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - statement.level + 1] if statement.level else []
            source = ".".join([*above, *filter(None, [statement.module])])
            for alias in statement.names:
                names[alias.asname or alias.name] = f"{source}.{alias.name}"
        else:  # assigned, or defined under a condition: known, but not from here
            for child in ast.walk(statement):
                if isinstance(child, ast.ClassDef | ast.FunctionDef):
                    names[child.name] = statement
                elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    names[child.id] = statement
    return names


def _source_file(module: str) -> Path | None:
    """The file of a module, found without importing its parents."""
    top, *rest = module.split(".")
    loaded = sys.modules.get(top)
    spec = getattr(loaded, "__spec__", None) or PathFinder.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                return file
    return None

"""A check of a training command's keys before anything heavy is imported: a mistyped key is reported at once.

The parser, which imports the classes, makes the same check with the same words, and reads everything that this one
leaves out: values, and classes whose parameters their source does not state plainly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avrt.config.errors import UsageError, unknown_key
from avrt.config.source_signatures import (
    Parameters,
    SourceClass,
    alternatives,
    arguments_of,
    derives_from,
    find_class,
    parameters,
)

TRAINER = "lightning.pytorch.Trainer"

_RUN = frozenset({"seed_everything", "trainer", "model", "data", "output_dir", "torch_threads"})
"""Keys of every training command: LightningCLI's and those of `lightning_modules.cli`."""

_OBJECTS = frozenset({"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"})
"""Arguments of the trainer's methods that a command builds itself."""

_KINDS = {"model": "LightningModule", "data": "LightningDataModule"}

_CLASS_KEYS = frozenset({"class_path", "init_args", "dict_kwargs"})

_SCALARS = frozenset({"None", "str", "int", "float", "bool", "pathlib.Path"})


def check_keys(command: str, arguments: Sequence[str], allowed: Sequence[str]) -> None:
    """Check the keys of the config files and options of a training command.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: the words after it, checked by `avrt.config.scan.scan_arguments`.
        allowed: allowed class-path prefixes.

    Raises:
        UsageError: a key is unknown.
    """
    trainer = find_class(TRAINER)
    own = None if trainer is None else arguments_of(trainer, command)
    if not own:
        return
    check = _Check(_RUN | (set(own) - _OBJECTS), None if trainer is None else parameters(trainer), allowed)
    for option, value in _options(arguments):
        if option in ("--config", "-c"):
            if value is not None:
                check.file(value)
        else:
            check.option(option.removeprefix("--"), value)


class _Check:
    """The settings read so far, in the command line's order.

    Args:
        run: keys of the command itself.
        trainer: parameters of the trainer.
        allowed: allowed class-path prefixes.
    """

    def __init__(self, run: frozenset[str], trainer: Parameters | None, allowed: Sequence[str]) -> None:
        self._run = run
        self._trainer = trainer
        self._allowed = allowed
        self._sections: dict[str, SourceClass | None] = {}
        """The classes of `model` and `data`."""

    def file(self, value: str) -> None:
        """A config file, or its text."""
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = value if value.lstrip().startswith(("{", "[")) else Path(value).read_text(encoding="utf-8")
        try:
            settings = yaml.load(text, Loader=loader)  # noqa: S506
        except (yaml.YAMLError, ValueError):
            return
        if not isinstance(settings, dict):
            return
        for key, content in settings.items():
            self._known("", key, content, self._run)
        for section in ("model", "data"):
            given = settings.get(section)
            if given is not None and (not isinstance(given, dict) or given.keys() - _CLASS_KEYS):
                self._sections[section] = None  # a class or a file by its name alone: the parser's business
            elif isinstance(given, dict):
                if "class_path" in given:
                    self._sections[section] = self._section(section, given["class_path"])
                self._class_arguments(section, self._sections.get(section), given.get("init_args"))
        self._mapping("trainer", self._trainer, settings.get("trainer"))

    def option(self, option: str, value: str | None) -> None:
        """An option of the command line, such as ``model.loss.beta``."""
        parts = option.removesuffix("+").split(".")
        if parts[-1] == "help" or option in ("help", "print_config", "h"):
            return
        section, *rest = parts
        if section in ("model", "data") and rest in ([], ["class_path"]):
            self._sections[section] = self._section(section, value)
            return
        self._known("", section, _nested(rest), self._run)
        if section in ("model", "data"):
            if rest[0] not in ("class_path", "dict_kwargs"):
                rest = rest[1:] if rest[0] == "init_args" else rest
                owner = self._sections.get(section)
                self._mapping(section, None if owner is None else parameters(owner), _nested(rest))
        elif section == "trainer" and len(rest) == 1:
            self._mapping(section, self._trainer, _nested(rest))

    def _section(self, section: str, path: Any) -> SourceClass | None:
        """The class of the model or the data; None also for one of another kind, which the parser refuses."""
        found = self._class(path)
        return found if found is not None and derives_from(found, _KINDS[section]) else None

    def _class(self, path: Any) -> SourceClass | None:
        allowed = isinstance(path, str) and any(f"{path}.".startswith(f"{prefix}.") for prefix in self._allowed)
        return find_class(path) if allowed else None

    def _class_arguments(self, key: str, owner: SourceClass | None, given: Any) -> None:
        if owner is not None:
            self._mapping(key, parameters(owner), given)

    def _mapping(self, key: str, accepted: Parameters | None, given: Any) -> None:
        """Settings of a class or a group of options."""
        if accepted is None or not isinstance(given, dict):
            return
        for name, content in given.items():
            self._known(key, name, content, accepted)
            module, annotation = accepted.get(_plain(name), ("", None))
            self._value(f"{key}.{_plain(name)}", content, module, annotation)

    def _value(self, key: str, given: Any, module: str, annotation: Any) -> None:
        if isinstance(given, list):
            for entry in given:
                if isinstance(entry, dict) and "class_path" in entry:
                    self._value(key, entry, module, annotation)
        elif isinstance(given, dict) and "class_path" in given:
            if not given.keys() - _CLASS_KEYS:
                self._class_arguments(key, self._class(given["class_path"]), given.get("init_args"))
        elif isinstance(given, dict) and not given.keys() & _CLASS_KEYS:
            group = _group(module, annotation)
            if group is not None:
                self._mapping(key, parameters(group), given)

    @staticmethod
    def _known(key: str, name: Any, content: Any, accepted: Mapping[str, Any] | frozenset[str]) -> None:
        if not isinstance(name, str) or "." in name or _plain(name) in accepted:
            return
        while isinstance(content, dict) and content:  # the parser names the whole path
            inner, content = next(iter(content.items()))
            name = f"{name}.{inner}"
        raise UsageError(unknown_key(key, name, accepted))


def _group(module: str, annotation: Any) -> SourceClass | None:
    """The dataclass whose fields a parameter takes, if it takes nothing else that has keys."""
    names = alternatives(module, annotation)
    if names is None:
        return None
    others = [name for name in names if name not in _SCALARS]
    found = find_class(others[0]) if len(others) == 1 else None
    return found if found is not None and found.is_dataclass else None


def _plain(name: Any) -> Any:
    """A key without the ``+`` that appends to a list."""
    return name.removesuffix("+") if isinstance(name, str) else name


def _nested(parts: Sequence[str]) -> Any:
    """``["loss", "beta"]`` as ``{"loss": {"beta": None}}``."""
    value: Any = None
    for part in reversed(parts):
        value = {part: value}
    return value


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Options of a command line with their values; ``-cFILE`` as ``-c``."""
    for index, word in enumerate(words):
        if word == "--":
            return
        following = words[index + 1] if index + 1 < len(words) else None
        if word.startswith("-c") and word != "-c" and not word.startswith("-c="):
            yield "-c", word[2:]
        elif word.startswith(("--", "-c")):
            option, equals, value = word.partition("=")
            yield option, value if equals else following

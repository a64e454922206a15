"""Finding the classes of users' own sources by their Python path: only in modules that the user allowed."""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Iterable, Iterator

import cloudpickle

from cosdask.data.base import Source
from cosdask.errors import ConfigError, did_you_mean

_allowed: set[str] = set()


def allow_source_modules(modules: Iterable[str]) -> None:
    """Let ``source_class`` name classes of these modules, and of their submodules, in this process."""
    _allowed.update(modules)


def source_class_at(path: str, where: str) -> type | None:
    """The class ``module.Name``; None where the path names no module that was allowed.

    Args:
        path: as ``source_class`` gives it.
        where: the layer, for messages.

    Raises:
        ConfigError: the module cannot be imported, or has no such class.
    """
    module, _, name = path.rpartition(".")
    if not any(module == own or module.startswith(f"{own}.") for own in _allowed):
        return None
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        raise ConfigError(
            f'{where}: source_class {path}: importing "{module}" failed: {type(error).__name__}: {error}. It must be '
            "on PYTHONPATH."
        ) from error
    found = getattr(loaded, name, None)
    if not isinstance(found, type):
        raise ConfigError(f'{where}: the module "{module}" has no class "{name}".{did_you_mean(name, vars(loaded))}')
    return found


def allowed_sources() -> dict[str, type]:
    """The classes of allowed modules that can be sources, by their paths; modules only workers have are left out."""
    found: dict[str, type] = {}
    for module in _modules():
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__ and _is_source(value):
                found[f"{module.__name__}.{name}"] = value
    return found


@contextlib.contextmanager
def sources_by_value() -> Iterator[None]:
    """Let classes of allowed modules be pickled with their code, so that workers need no copy of the files."""
    modules = [module for module in _modules() if module.__name__ != "__main__"]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _modules() -> list[types.ModuleType]:
    found = []
    for name in sorted(_allowed):
        with contextlib.suppress(ModuleNotFoundError):
            found.append(importlib.import_module(name))
    return found


def _is_source(value: type) -> bool:
    return issubclass(value, Source) or callable(getattr(value, "frame", None))

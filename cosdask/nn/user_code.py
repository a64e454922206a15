"""Finding the classes of users' Python layers: only in modules that the user allowed.

A prototxt is an input file, and no input file may run code. It can name a Python layer's module and class, but the
module is imported only where its name was allowed: :func:`allow_python_layers` (``Config(allow_modules=...)`` and
``--allow-modules`` call it). To workers the classes travel from the client, by value.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

import cloudpickle

from cosdask.data.user_modules import allow_source_modules
from cosdask.errors import ConfigError, NetError, did_you_mean
from cosdask.nn.layer import Layer as NetLayer
from cosdask.nn.layer import register_layer, registered_layers
from cosdask.nn.user_layers import Layer

_allowed: set[str] = set()
#: classes that came from the client, by module and name
_shipped: dict[tuple[str, str], type[Layer]] = {}
_importing = threading.RLock()


def allow_python_layers(modules: Iterable[str]) -> None:
    """Let prototxt files use code of these modules, in this process and on the ranks it starts.

    That is: layers (``type: "Python"``), and sources that ``source_class`` names by their Python path.

    Args:
        modules: names such as ``"my_layers"``; a package's name allows its submodules too.

    Raises:
        ConfigError: a single text instead of a list, or something that is no module's name.

    Example:
        >>> allow_python_layers(["my_layers"])
    """
    if isinstance(modules, str):
        raise ConfigError(f'allow_python_layers("{modules}"): give a list, such as ["{modules}"]')
    modules = list(modules)
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f'"{name}" is not the name of a Python module, such as my_layers (without .py)')
        _allowed.add(name)
    allow_source_modules(modules)


def python_layer_class(module: str, name: str, layer: str) -> type[Layer]:
    """The class that a Python layer names.

    Args:
        module: ``python_param.module``.
        name: ``python_param.layer``.
        layer: the layer's name, for errors.

    Raises:
        NetError: a module that was not allowed or cannot be imported, a class that is missing or no ``caffe.Layer``.
    """
    if (module, name) in _shipped:
        return _shipped[module, name]
    where = f'layer "{layer}" (Python)'
    if not _is_allowed(module):
        raise NetError(
            f'{where}: it wants code of the module "{module}", which is not allowed. A prototxt runs only code that '
            f'you name: cosdask.allow_python_layers(["{module}"]), Config(allow_modules=["{module}"]) or '
            f"--allow-modules {module}.",
            layer=layer,
        )
    try:
        found = getattr(_imported(module), name, None)
    except Exception as error:
        raise NetError(
            f'{where}: importing the module "{module}" failed: {type(error).__name__}: {error}. It must be on '
            "PYTHONPATH, as for Caffe.",
            layer=layer,
        ) from error
    if found is None:
        near = did_you_mean(name, vars(sys.modules[module]))
        raise NetError(f'{where}: the module "{module}" has no class "{name}".{near}', layer=layer)
    if not (isinstance(found, type) and issubclass(found, Layer)):
        raise NetError(
            f"{where}: {module}.{name} is no subclass of caffe.Layer as cosdask knows it; where a real Caffe is "
            "installed too, let the class derive from cosdask.pycaffe.Layer.",
            layer=layer,
        )
    return found


def _is_allowed(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _allowed)


def _imported(module: str) -> types.ModuleType:
    with _importing:
        provide_caffe()
        return importlib.import_module(module)


def provide_caffe(module: types.ModuleType | None = None) -> None:
    """Make ``import caffe`` find something in users' modules: ``module``, or else the little that layers need.

    A ``caffe`` that was already imported stays, unless ``module`` is given.
    """
    if module is not None:
        sys.modules["caffe"] = module
    elif "caffe" not in sys.modules:
        small = types.ModuleType("caffe", "What Python layers need of Caffe's Python interface, from cosdask.")
        small.__dict__.update(Layer=Layer, TRAIN=0, TEST=1, __cosdask__=True)
        sys.modules["caffe"] = small


def is_user_code(layer: NetLayer) -> bool:
    """Whether a layer of a net is the user's own code, in JAX or in NumPy."""
    return layer.type == "Python" or layer.type in registered_layers()


# -- how code travels ------------------------------------------------------------------------------------------------


def dump_layers() -> bytes:
    """The user's own layer types and Python layers of this session, pickled; empty where there are none."""
    classes: dict[tuple[str, str], type[Layer]] = dict(_shipped)
    homes = []
    for name in sorted(_allowed):
        # a module that only the workers have is imported there, under the same name
        with contextlib.suppress(ModuleNotFoundError):
            homes.append(_imported(name))
            classes.update(_classes_of(homes[-1]))
    mine = {"layers": registered_layers(), "python": classes, "allowed": sorted(_allowed)}
    if not any(mine.values()):
        return b""
    with _by_value(homes):
        try:
            return bytes(cloudpickle.dumps(mine))
        except Exception as error:
            raise ConfigError(
                f"the layers of {', '.join(sorted(_allowed))} cannot be sent to workers: {error}"
            ) from error


def load_layers(data: bytes) -> None:
    """Make known in this process what :func:`dump_layers` found in the client's, which is trusted."""
    if not data:
        return
    provide_caffe()
    mine = cloudpickle.loads(data)
    for name, cls in mine["layers"].items():
        register_layer(name)(cls)
    _shipped.update(mine["python"])
    _allowed.update(mine["allowed"])


def _classes_of(module: types.ModuleType) -> dict[tuple[str, str], type[Layer]]:
    """The layer classes of a module and of its submodules that are loaded."""
    found: dict[tuple[str, str], type[Layer]] = {}
    for name, loaded in list(sys.modules.items()):
        if name == module.__name__ or name.startswith(f"{module.__name__}."):
            for word, value in list(vars(loaded).items()):
                if isinstance(value, type) and issubclass(value, Layer) and value is not Layer:
                    found[name, word] = value
    return found


@contextlib.contextmanager
def _by_value(modules: list[types.ModuleType]) -> Iterator[None]:
    """Let classes of these modules be pickled with their code, so that workers need no copy of the files."""
    added: list[Any] = []
    try:
        for module in modules:
            if module.__name__ != "__main__":
                cloudpickle.register_pickle_by_value(module)
                added.append(module)
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


__all__ = [
    "allow_python_layers",
    "dump_layers",
    "is_user_code",
    "load_layers",
    "provide_caffe",
    "python_layer_class",
]

"""Postpone the import of modules that a library imports and the daemon never uses.

paho imports ``urllib.request`` to look for proxies, which loads HTTP, e-mail and archive modules: 2 MB of the daemon's
memory. The standard library's LazyLoader does not help, since the next ``import`` statement loads the module.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """A placeholder for a module, which loads the module on the first attribute access."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # accessed by the import system itself
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def postpone(name: str) -> None:
    """Make imports of the module ``name`` load nothing until it is used; a module that is already loaded stays."""
    if name in sys.modules:
        return
    stand_in = sys.modules[name] = _Postponed(name)
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), leaf, stand_in)

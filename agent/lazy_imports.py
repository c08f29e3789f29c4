"""Postpones the import of modules that a library names and the daemon never uses.

paho imports ``urllib.request`` to look for proxies, which brings along HTTP, e-mail and archives: 2 MB of the daemon's
memory. The standard library's LazyLoader does not help, since the next ``import`` statement loads the module.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Postponed(ModuleType):
    """Stands in for a module, and becomes it when something is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def postpone(name: str) -> None:
    """From now on an import of the module ``name`` loads nothing; a module that is there already stays."""
    if name in sys.modules:
        return
    stand_in = sys.modules[name] = _Postponed(name)
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), leaf, stand_in)

"""All scorers there are, one file each in this folder. A new scorer is a new file with a ``SCORER``; it is found."""

import pkgutil
from importlib import import_module
from typing import Final

from scorer.model import Scorer

POOL_SCORER: Final = "recentmedian"
"""The scorer whose score is the server's, and decides whether it is handed out."""


def all_scorers() -> tuple[Scorer, ...]:
    """Every scorer of this folder, by name."""
    found = [import_module(f"{__name__}.{module.name}").SCORER for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted(found, key=lambda scorer: scorer.name))

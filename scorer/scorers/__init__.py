"""Find all scorers, one per file in this folder. To add a scorer, add a file with a ``SCORER``."""

import pkgutil
from importlib import import_module
from typing import Final

from scorer.model import Scorer

POOL_SCORER: Final = "recentmedian"
"""Name of the scorer that determines the server's score, and so whether it is handed out."""


def all_scorers() -> tuple[Scorer, ...]:
    """Return all scorers of this folder, sorted by name."""
    found = [import_module(f"{__name__}.{module.name}").SCORER for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted(found, key=lambda scorer: scorer.name))

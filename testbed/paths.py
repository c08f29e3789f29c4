"""Define the path of this checkout: the testbed runs from a checkout, never from a package."""

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]

"""Where this checkout is: the testbed runs from one, never from a package."""

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]

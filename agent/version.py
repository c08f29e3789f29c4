"""The agent's version, as batches and status messages carry it."""

from typing import Final

# A constant: asking importlib.metadata for it would cost the daemon a megabyte.
VERSION: Final = "0.1.0"

"""Define the agent's version, as sent in batches and status messages."""

from typing import Final

# A constant, since importlib.metadata would cost the daemon a megabyte.
VERSION: Final = "0.1.0"

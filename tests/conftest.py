"""Fixtures of all floors live in ``tests/fixtures``; this makes them known."""

import sys
from pathlib import Path

# Tests are imported by path, so the folder of fixtures must be named.
sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["fixtures.broker", "fixtures.database"]

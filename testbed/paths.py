"""Define the path of this checkout: the testbed runs from a checkout, never from a package."""

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[1]


def certificate_files(directory: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a certificate and its key."""
    return directory / f"{name}-cert.pem", directory / f"{name}-key.pem"

"""Write the revocation list for the broker: atomically, and never an older one over a newer one."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from auth.ca.private_files import replace_file

_MODE: Final = 0o644
"""The list is public, and the broker runs as another user."""


def write_list(path: Path, make: Callable[[], str]) -> None:
    """Replace the file ``path`` with the list that ``make`` returns.

    Several processes may write it: ``make``, which reads the ledger, runs while no other one does. So whoever writes
    last has read last.

    Raises:
        OSError: it could not be written; the previous list is unchanged.
    """
    # The directory is the lock, since a lock file would belong to whoever came first, and nobody else could open it.
    lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        replace_file(path, make().encode(), _MODE)
    finally:
        os.close(lock)

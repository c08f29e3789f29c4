"""Finish the replacement of certificate and key, which are two files, after a crash in between."""

from contextlib import suppress

from agent.state import StateDirectory


def finish_replacement(directory: StateDirectory) -> None:
    """Put the new key and its certificate to use, if both were ready.

    What cannot be done now is done by the next renewal.
    """
    with suppress(OSError):
        if not directory.new_certificate_file.exists():
            return
        if directory.new_key_file.exists():
            directory.new_key_file.replace(directory.key_file)
        directory.new_certificate_file.replace(directory.certificate_file)
        directory.new_request_file.unlink(missing_ok=True)

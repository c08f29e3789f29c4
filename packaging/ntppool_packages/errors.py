"""Define the error after which nothing is built."""


class CannotBuild(Exception):
    """A package cannot be built here; the message says why, in one line."""

"""Define the errors of commands: a message of one line, and an exit code."""


class OperatorError(Exception):
    """The command failed. The message names the given value and the accepted ones. Exit code 1."""


class UsageError(Exception):
    """An argument is invalid. The message names it, its value and the accepted ones. Exit code 2."""


def leaf_of(error: BaseException) -> BaseException:
    """Return the first error in a group, at any depth; an error that is not a group is returned unchanged."""
    return leaf_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error

"""What an operator is told when a command cannot be carried out: one line, and the exit code that goes with it."""


class OperatorError(Exception):
    """The command cannot be carried out; the message names what was given and what would be right. Exit code 1."""


class UsageError(Exception):
    """An argument is wrong; the message names it, its value and what would be right. Exit code 2."""


def leaf_of(error: BaseException) -> BaseException:
    """The first error in a group of errors, however deep; an error that is no group is its own leaf."""
    return leaf_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error

"""Define the error for wrong options of a demo."""


class OptionError(Exception):
    """An option is wrong; the message names it, its value and the valid values."""

"""What is wrong with the options of a demo."""


class OptionError(Exception):
    """An option is wrong; the message names it, its value and what would be right."""

"""Why a demo cannot be run."""


class DemoError(Exception):
    """It cannot be started or brought to its end; the message says what and why."""


class OptionError(Exception):
    """An option is wrong; the message names it, its value and what would be right."""

"""Provide the monitor's daemon and command line, which probe servers and keep results until they are acknowledged."""

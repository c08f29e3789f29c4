"""Provide the operators' command line, the one place that composes all processes."""

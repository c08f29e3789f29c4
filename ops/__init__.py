"""The operators' command line and the demo: the one place that composes all processes."""

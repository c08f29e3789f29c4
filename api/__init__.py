"""Serve the management API to hosts, and its pages to people."""

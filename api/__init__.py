"""Serve the management API over HTTP: registration, configuration, tokens and certificates of agents."""

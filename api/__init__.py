"""Serve the management API: registration, configuration, tokens and certificates, and the pages of people."""

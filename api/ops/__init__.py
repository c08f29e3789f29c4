"""Serve operators and their programs: who is connected, agents' metrics, and measurements on request."""

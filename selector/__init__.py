"""Decides which monitors measure which server, and tells the agents."""

"""Decide which monitors measure which server, and publish the assignments to the agents."""

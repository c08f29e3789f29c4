"""Decide whether this host's clock is accurate enough to judge other clocks."""

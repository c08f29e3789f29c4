"""Provide the broker session that every process uses, and its parts."""

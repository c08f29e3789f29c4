"""Upgrade a running pool from the former release to this checkout, under load, and check that no result is lost."""

"""Worlds for the rules of the selector, and everything that the rules promise of them."""

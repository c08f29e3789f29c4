"""Trace the route to an address for an operator, with the program that the host has. Imported when first asked."""

"""Measure the figures that the system promises, one program for each."""

"""Measure one server: packets, timestamps, sockets, and the verdict on an answer."""

"""Provide tokens, certificates and registration: the identity of clients, and their permissions."""

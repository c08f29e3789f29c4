"""Serve HTTP: listen, limit what clients may occupy, and answer errors. Used by the API and by the public pages."""

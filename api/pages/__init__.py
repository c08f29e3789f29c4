"""Serve pages to people: log in, confirm a registration, see, move and remove monitors. Without scripts."""

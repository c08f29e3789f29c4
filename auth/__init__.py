"""Tokens, certificates and registration: who somebody is, and what they may say and hear."""

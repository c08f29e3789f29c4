"""Measure what one, two and four workers of each kind do on one machine, and check that several at once are right."""

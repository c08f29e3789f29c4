"""The one session with the broker that every process uses, and what belongs to it."""

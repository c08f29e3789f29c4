"""The worker that tells people what is wrong: it raises alerts, clears them, and delivers the messages."""

"""What a result does to a score, and the worker that keeps the servers' scores."""

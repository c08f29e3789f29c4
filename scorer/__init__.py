"""Score results and servers, and run the worker that updates the servers' scores."""

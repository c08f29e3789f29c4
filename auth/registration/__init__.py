"""Registration: how the agent of a host becomes a monitor, from its first request to its API key."""

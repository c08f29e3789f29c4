"""Generate load: any number of simulated monitors in one process, which follow the real protocol.

They publish batches through the agent's own sender, wait for ingest's acknowledgements, send again without one, and
record exactly which messages they sent and received.
"""

"""A load generator: any number of simulated monitors in one process, which follow the real protocol.

They publish batches through the agent's own sender, wait for ingest's acknowledgement, send again without one, and
write down exactly what they sent and what they were told.
"""

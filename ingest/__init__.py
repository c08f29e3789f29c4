"""Store the agents' results and presence in the ledger."""

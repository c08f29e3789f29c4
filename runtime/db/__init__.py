"""Access the ledger: engine, transactions, work queues, migrations and system settings."""

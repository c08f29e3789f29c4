"""The ledger: its engine, transactions, work queues, migrations and settings."""

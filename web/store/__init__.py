"""Read the ledger for the public pages: a few columns, none of them an address of a monitor, with bounded queries.

``docs/architecture.md`` lists the index of each query; a test compares it with the plans of the databases.
"""

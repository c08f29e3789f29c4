"""What agents say goes into the ledger: results and presence."""

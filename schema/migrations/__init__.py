"""Alembic's migrations, numbered from the oldest. Each can run again after an interruption."""

"""Alembic's migrations, oldest first by number. Each can run again after it was cut off half-way."""

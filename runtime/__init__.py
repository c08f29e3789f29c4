"""Provide the common parts of all processes: settings, broker session, database, secrets, telemetry and logging."""

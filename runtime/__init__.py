"""What every process needs: settings, the broker session, the database, secrets, telemetry and logging."""

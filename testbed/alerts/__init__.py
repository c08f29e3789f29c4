"""Cases of Prometheus' alerts: what happens to a healthy pool, and which alert that raises."""

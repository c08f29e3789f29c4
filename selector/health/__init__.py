"""Judge the health of monitors over all servers: count what they measure in each hour, and derive labels from it."""

"""Show people the pool: pages without scripts, in which every value is escaped."""

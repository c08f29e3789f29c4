"""Deliver results as acknowledged batches, without losing any."""

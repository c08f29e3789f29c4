"""Define the contract between the processes: topics, messages, limits and tables. It imports nothing of ours."""

"""Answer machines: agents, ours and those of the older protocol. One module per subject."""

"""Answer tools: histories in the formats that they read, the state of a server, and its metrics."""

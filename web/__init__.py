"""The public face: what operators of NTP servers, visitors and tools see. It reads the ledger, and has no secret."""

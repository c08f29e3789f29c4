"""Format the public answers for tools, byte for byte as existing tools read them. Pure."""

"""Issue certificates for monitors and servers, from a CA in files or in Vault; ``authority.py`` is the contract."""

"""Everything on our disk; changes with the format."""

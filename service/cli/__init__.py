"""The commands; changes with operators."""

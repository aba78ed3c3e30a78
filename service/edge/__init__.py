"""Bytes of a socket to a request, and an answer back; changes with aiohttp."""

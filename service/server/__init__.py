"""Processes, wiring, life and death."""

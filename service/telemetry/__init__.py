"""What watchers read: metrics, the log, whether parts work."""

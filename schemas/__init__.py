"""The shapes of the service: events in, rows stored, answers out. Pure: nothing here does I/O."""

"""From an event to its confirmed row: the promise."""

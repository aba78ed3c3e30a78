-- How the table was made: its engine and its settings, as one text.
SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'events'

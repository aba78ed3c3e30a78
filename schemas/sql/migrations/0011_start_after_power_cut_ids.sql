-- As for events.
ALTER TABLE client_ids MODIFY SETTING max_suspicious_broken_parts = 100000

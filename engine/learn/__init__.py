"""Learning: from records of the log to steps of the optimizer, in the order of events."""

"""What a caller and the engine agree on: errors, arguments, events, times, positions, settings, losses and reports."""

"""What a caller and the engine agree on: errors, arguments, arrays, events, settings, losses and reports."""

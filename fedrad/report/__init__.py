"""Pictures of a run for the terminal."""

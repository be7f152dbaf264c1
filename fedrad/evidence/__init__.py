"""Evidence: how sure a score is, and whether two of them differ."""

"""Names of the base models that need no download: the embedded encoder, and the public base that was made of it."""

EMBEDDED = "all-MiniLM-L6-v2"
CHEST = "chest-minilm"

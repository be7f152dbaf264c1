"""What a budget buys, before any training, from public figures alone; and the notes that a run ends with."""

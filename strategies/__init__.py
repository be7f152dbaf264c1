"""LoRA aggregation strategies, one readable file each, found by name through the entry points "fedrad.strategies"."""

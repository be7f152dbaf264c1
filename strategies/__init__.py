"""LoRA aggregation strategies, one readable file each, found by name through the entry points "fedrad.strategies"."""

# Another package may have the same name; fedrad.installed checks this mark.
OF = "fedrad"

"""LoRA aggregation strategies, one readable file each, found by name through the entry points "fedrad.strategies"."""

# Others may have a package of this name, too: fedrad.training.strategy looks whether it has found this one.
OF = "fedrad"

"""Privacy certificates: what a ledger's charges come to, signed, and checked again by whoever is shown one."""

"""What a site has spent: a durable, append-only record, protected against old copies; and how much budget is left."""

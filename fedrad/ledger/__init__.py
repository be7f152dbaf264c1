"""What a site has spent: durable, append-only, checked against copies; and how much room is left."""

"""Joins data, model and privacy: the one training loop, its durable site state, evaluation."""

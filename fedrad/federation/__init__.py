"""Carries ``training`` over Flower: hospitals are clients, the server aggregates and keeps a mirror of the budgets."""

"""Privatises text token by token on the machine that holds it (after STAMP, arXiv 2603.12237)."""

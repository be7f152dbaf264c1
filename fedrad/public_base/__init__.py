"""Base models that are trained further on generated reports: how they are built, kept and chosen."""

"""CT-RATE: 18 labels of chest CT reports."""

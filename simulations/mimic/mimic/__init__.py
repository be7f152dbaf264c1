"""MIMIC-CXR: 14 labels of chest X-ray reports; without the data, generated reports with the same labels."""

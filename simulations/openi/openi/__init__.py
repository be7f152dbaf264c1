"""Open-i: chest X-ray reports of Indiana University, 14 labels."""

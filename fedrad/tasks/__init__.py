"""What is predicted and how it is learnt: loss per report and metrics."""

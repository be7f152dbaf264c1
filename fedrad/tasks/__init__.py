"""What is predicted and how it is learnt. Each task is a file; ``task.py`` defines its interface."""

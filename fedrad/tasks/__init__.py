"""What is predicted and how it is learnt. A task is a file; ``task.py`` says what it must answer."""

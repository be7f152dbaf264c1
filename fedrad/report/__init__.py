"""Pictures of a run: the terminal now, plots and the HTML report later."""

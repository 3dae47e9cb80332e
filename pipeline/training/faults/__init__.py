"""What goes wrong in a training, on purpose or not, and what a run makes of it."""

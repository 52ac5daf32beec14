"""The embedded toy model: its world, recipe and evaluation. Run the parts as modules from the repository
root."""

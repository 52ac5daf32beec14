"""Changes of a model before it serves, each of which can be left out."""

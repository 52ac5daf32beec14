"""What an earlier clip saves a later one. No torch here: a gateway reads all of it."""

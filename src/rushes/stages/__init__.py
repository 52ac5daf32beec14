"""The stages of a generation, each a unit of batching and timing."""

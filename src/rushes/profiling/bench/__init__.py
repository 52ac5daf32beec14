"""The one benchmark: each second defined once, rivals in turn with us, every figure with what made it."""

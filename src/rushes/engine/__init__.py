"""Many jobs on one device, step by step."""

"""Kernels behind functions; `reference.py` is their specification."""

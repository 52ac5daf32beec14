"""Ordered stages of whole models; the only place that knows a whole model."""

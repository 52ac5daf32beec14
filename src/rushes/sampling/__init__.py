"""Schedules, solvers and guidance: pure functions of model output, latents, sigmas and history."""

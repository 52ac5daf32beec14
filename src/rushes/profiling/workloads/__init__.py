"""Streams of requests as users send them: seeded, with fixed parameters, each request labelled. No torch."""

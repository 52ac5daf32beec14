"""The captioned toy world: emoji sprites that move over procedural backgrounds, drawn in batches.

`scenes` says what a clip shows, `captions` says it in words, `renderer` draws it; `held_out` keeps the
evaluation's (subject, motion, background) triples out of training.
"""

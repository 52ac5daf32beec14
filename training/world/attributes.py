"""The attributes of a scene and their values. Positions in these tuples are the class indices everywhere."""

from __future__ import annotations

WIDTH, HEIGHT, NUM_FRAMES, FPS = 192, 128, 33, 16

COLOURS = ("natural", "red", "yellow", "green", "blue", "purple", "pink")
COUNTS = (1, 2, 3)
SIZES = ("small", "medium", "big")
MOTIONS = (
    "right",
    "left",
    "rises",
    "falls",
    "bounces",
    "spins",
    "grows",
    "shrinks",
    "shakes",
    "circles",
    "swings",
    "turns",
    "zigzags",
    "still",
)
BACKGROUNDS = (
    "beach",
    "meadow",
    "snow",
    "desert",
    "night",
    "city",
    "forest",
    "underwater",
    "space",
    "sunset",
    "mountains",
    "room",
    "road",
    "volcano",
)
CAMERAS = ("static", "pan left", "pan right", "zoom in", "zoom out")

NATURAL = COLOURS.index("natural")
MEDIUM = SIZES.index("medium")
STATIC = CAMERAS.index("static")
NO_SUBJECT = -1

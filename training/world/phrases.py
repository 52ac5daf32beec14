"""The words for every attribute but the subject: what captions are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One way to say a motion, in the three forms that the templates need."""

    one: str
    many: str
    ing: str


def _verbs(*phrases: str) -> tuple[Verb, ...]:
    """Verbs from "stem[|third person|participle] rest"; both forms are regular unless given."""
    verbs = []
    for phrase in phrases:
        head, _, rest = phrase.partition(" ")
        stem, third, participle = head.split("|") if "|" in head else (head, f"{head}s", f"{head}ing")
        rest = f" {rest}" if rest else ""
        verbs.append(Verb(one=third + rest, many=stem + rest, ing=participle + rest))
    return tuple(verbs)


ZIGZAG = "zigzag|zigzags|zigzagging"
MOVE, GLIDE, DRIVE = "move|moves|moving", "glide|glides|gliding", "drive|drives|driving"
RUN, GO, RISE = "run|runs|running", "go|goes|going", "rise|rises|rising"
BOUNCE, SHAKE, CIRCLE = "bounce|bounces|bouncing", "shake|shakes|shaking", "circle|circles|circling"

# Generic travel without a direction, said of "right" and "left" alike: "a dog running in the park".
TRAVEL = _verbs(RUN, MOVE, "walk", "travel", f"{GO} past", "pass|passes|passing by", RUN + " along", DRIVE)
TRAVEL_SHARE = 0.2

VERBS = {
    "right": _verbs(
        f"{MOVE} from left to right",
        f"{MOVE} to the right",
        f"{RUN} to the right",
        "walk to the right",
        f"{GLIDE} rightwards",
        f"{DRIVE} from left to right",
        f"{GO} right",
        "travel from the left to the right",
    ),
    "left": _verbs(
        f"{MOVE} from right to left",
        f"{MOVE} to the left",
        f"{RUN} to the left",
        "walk to the left",
        f"{GLIDE} leftwards",
        f"{DRIVE} from right to left",
        f"{GO} left",
        "travel from the right to the left",
    ),
    "rises": _verbs(
        RISE,
        f"{RISE} up",
        "float upwards",
        f"{MOVE} up",
        f"{GO} upwards",
        "ascend",
        "fly|flies|flying up",
        "lift off",
    ),
    "falls": _verbs(
        "fall", "fall down", "sink", f"{MOVE} down", "drop|drops|dropping down", "descend", f"{GO} downwards"
    ),
    "bounces": _verbs(
        BOUNCE, f"{BOUNCE} up and down", "jump", "jump up and down", "hop|hops|hopping", "leap up and down"
    ),
    "spins": _verbs(
        "spin|spins|spinning",
        "rotate|rotates|rotating",
        "whirl",
        "spin|spins|spinning on the spot",
        "roll over and over",
        "tumble|tumbles|tumbling head over heels",
    ),
    "grows": _verbs(
        "grow",
        "grow bigger",
        "get|gets|getting bigger",
        "become|becomes|becoming larger",
        "expand",
        "inflate|inflates|inflating",
    ),
    "shrinks": _verbs(
        "shrink",
        "get|gets|getting smaller",
        "become|becomes|becoming smaller",
        "shrink down",
        "dwindle|dwindles|dwindling",
        "deflate|deflates|deflating",
    ),
    "shakes": _verbs(
        SHAKE,
        "tremble|trembles|trembling",
        "vibrate|vibrates|vibrating",
        "shiver",
        f"{SHAKE} from side to side",
        "jitter",
    ),
    "circles": _verbs(
        f"{MOVE} in a circle",
        CIRCLE,
        f"{CIRCLE} around",
        "orbit",
        f"{GO} round in a circle",
        "fly|flies|flying in a loop",
    ),
    "swings": _verbs(
        "swing",
        "sway",
        "swing back and forth",
        "rock back and forth",
        "swing like a pendulum",
        "dangle|dangles|dangling",
    ),
    "turns": _verbs(
        "turn around",
        "twirl",
        "pirouette|pirouettes|pirouetting",
        "turn like a carousel",
        "turn round and round",
        "flip|flips|flipping around",
    ),
    "zigzags": _verbs(
        ZIGZAG,
        f"{MOVE} in a zigzag",
        f"{ZIGZAG} across",
        "weave|weaves|weaving up and down",
        f"{GO} zigzag",
        f"{RUN} in zigzags",
    ),
    "still": _verbs(
        "stand still",
        "stay in place",
        "stay still",
        "rest",
        "wait",
        "sit|sits|sitting still",
        "do|does|doing nothing",
        "remain motionless",
    ),
}

# Where a clip is set; the first of each is the canonical one.
PLACES = {
    "beach": (
        "on the beach",
        "at the beach",
        "on a sandy beach",
        "by the seaside",
        "at the seashore",
        "on the shore",
        "on a sunny beach",
    ),
    "meadow": (
        "on a meadow",
        "in the park",
        "in a park",
        "on the grass",
        "in a green field",
        "in a flowery meadow",
        "on a lawn",
        "in the garden",
    ),
    "snow": (
        "in the snow",
        "on a snowy field",
        "in a winter landscape",
        "in a snowy landscape",
        "in winter",
        "on a snow field",
    ),
    "desert": (
        "in the desert",
        "on sand dunes",
        "in a sandy desert",
        "among the dunes",
        "in the sahara",
        "in a hot desert",
    ),
    "night": (
        "at night",
        "under the moon",
        "in the night sky",
        "on a starry night",
        "in the moonlight",
        "under a starry sky",
    ),
    "city": (
        "in the city",
        "in front of a skyline",
        "in a big city",
        "among skyscrapers",
        "downtown",
        "in front of tall buildings",
        "in town",
    ),
    "forest": (
        "in the forest",
        "in the woods",
        "among the trees",
        "in a dark forest",
        "in a deep wood",
        "in the jungle",
    ),
    "underwater": (
        "underwater",
        "under the sea",
        "in the ocean",
        "in the deep sea",
        "under water",
        "on a coral reef",
        "below the waves",
    ),
    "space": (
        "in space",
        "in outer space",
        "among the planets",
        "in a colourful nebula",
        "in the galaxy",
        "in the cosmos",
    ),
    "sunset": (
        "at sunset",
        "at dusk over the sea",
        "in front of the setting sun",
        "at sundown",
        "in the evening sun over the sea",
        "before a glowing sunset",
    ),
    "mountains": (
        "in the mountains",
        "in front of mountains",
        "in the alps",
        "before snowy peaks",
        "in the highlands",
        "in a mountain valley",
    ),
    "room": ("in a room", "indoors", "in the living room", "inside a house", "at home", "in a cosy room"),
    "road": (
        "on the road",
        "on the street",
        "on a highway",
        "on an asphalt road",
        "along the road",
        "in the street",
    ),
    "volcano": (
        "at a volcano",
        "in front of a volcano",
        "near an erupting volcano",
        "by the lava",
        "in a volcanic landscape",
        "beside a river of lava",
    ),
}

CAMERA_WORDS = {
    "static": ("",),
    "pan left": ("the camera pans left", "the camera pans to the left", "camera panning left", "left pan"),
    "pan right": (
        "the camera pans right",
        "the camera pans to the right",
        "camera panning right",
        "right pan",
    ),
    "zoom in": ("the camera zooms in", "zooming in", "camera zooming in", "the view zooms in"),
    "zoom out": ("the camera zooms out", "zooming out", "camera zooming out", "the view zooms out"),
}

# Each with the space that follows it.
SIZE_WORDS = {"small": ("small ", "little ", "tiny "), "medium": ("",), "big": ("big ", "large ", "huge ")}
COUNT_WORDS = {2: ("two", "two", "a pair of", "2"), 3: ("three", "three", "a group of three", "3")}

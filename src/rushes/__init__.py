"""Rushes: low-latency text-to-video inference.

```python
import rushes

model = rushes.load("toy")  # or a checkpoint folder
model.generate("a dog running in the park", seed=7).save("dog.mp4")
```

`import rushes` loads no torch: names are imported when first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rushes.config import let_segments_grow, let_threads_sleep

if TYPE_CHECKING:
    from rushes.client import Client as Client
    from rushes.client import Clip as Clip
    from rushes.errors import CheckpointError as CheckpointError
    from rushes.errors import ConfigError as ConfigError
    from rushes.errors import EngineError as EngineError
    from rushes.errors import InvalidRequest as InvalidRequest
    from rushes.errors import OutputError as OutputError
    from rushes.errors import RequestError as RequestError
    from rushes.errors import RushesError as RushesError
    from rushes.errors import UnknownName as UnknownName
    from rushes.models.text import PromptEmbeds as PromptEmbeds
    from rushes.pipelines.model import Model as Model
    from rushes.pipelines.model import load as load
    from rushes.types import Done as Done
    from rushes.types import Event as Event
    from rushes.types import ForwardCounts as ForwardCounts
    from rushes.types import Frames as Frames
    from rushes.types import GenerateRequest as GenerateRequest
    from rushes.types import LatentVideo as LatentVideo
    from rushes.types import Preview as Preview
    from rushes.types import Progress as Progress
    from rushes.types import SamplingParams as SamplingParams
    from rushes.types import Timing as Timing
    from rushes.types import Video as Video
    from rushes.types import VideoSpec as VideoSpec

__version__ = "0.1.0"

# A library prints nothing by itself; whoever wants its log gives it a handler.
logging.getLogger(__name__).addHandler(logging.NullHandler())
let_threads_sleep()
let_segments_grow()

_HOMES = {
    "rushes.client": ("Client", "Clip"),
    "rushes.errors": (
        "CheckpointError",
        "ConfigError",
        "EngineError",
        "InvalidRequest",
        "OutputError",
        "RequestError",
        "RushesError",
        "UnknownName",
    ),
    "rushes.models.text": ("PromptEmbeds",),
    "rushes.pipelines.model": ("Model", "load"),
    "rushes.types": (
        "Done",
        "Event",
        "ForwardCounts",
        "Frames",
        "GenerateRequest",
        "LatentVideo",
        "Preview",
        "Progress",
        "SamplingParams",
        "Timing",
        "Video",
        "VideoSpec",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rushes' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOME_OF])

"""Takes keys and prompts out of texts that go to a log."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

KEY, PROMPT = "[key]", "[prompt]"

KEY_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), rf"\1 {KEY}"),
    (re.compile(r"\b(rk_|whsec_|sk-)[A-Za-z0-9_+/=-]{6,}"), rf"\1{KEY}"),
    (re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"), KEY),
    (re.compile(r"(://)[^/\s@]+@"), rf"\1{KEY}@"),
    (
        re.compile(
            r"(?i)\b(x-amz-(?:signature|credential|security-token)|api[_-]?key|access[_-]?token|token|secret"
            r"|password|signature|key)=[^&\s\"']+"
        ),
        rf"\1={KEY}",
    ),
)
"""Of keys by their look: in headers, our own, Amazon's, in URLs and in queries."""

KEY_FIELDS = frozenset(("authorization", "api_key", "key", "secret", "password", "token", "cookie"))
PROMPT_FIELDS = frozenset(("prompt", "negative_prompt", "prompts", "text"))
"""Names of `extra` fields that are hidden whole."""

MOST_PROMPTS = 64
HEAD = 24
"""Letters of a long prompt after which the rest of a text is hidden: it may have been cut there."""


class Redactor:
    """Hides keys always, and prompts unless told otherwise. For any number of threads.

    Args:
        shows_prompts: `--log-prompts`.
    """

    def __init__(self, *, shows_prompts: bool = False) -> None:
        self._shows_prompts = shows_prompts
        self._prompts: deque[str] = deque(maxlen=MOST_PROMPTS)

    def conceal(self, *texts: str | None) -> None:
        """Hide these prompts wherever they turn up in this process, until many others came; for a worker,
        whose records are of no request."""
        for text in texts:
            if text and text not in self._prompts:
                self._prompts.append(text)

    def cleaner(self, concealed: Iterable[str] = ()) -> Callable[[str], str]:
        """What cleans the texts of one record.

        Args:
            concealed: prompts of the request that the record is about.
        """
        prompts = [] if self._shows_prompts else [*concealed, *self._prompts.copy()]
        # Longer ones first: one may be a part of another.
        patterns = [prompt_pattern(prompt) for prompt in sorted(prompts, key=len, reverse=True)]

        def clean(text: str) -> str:
            for pattern in patterns:
                text = pattern.sub(PROMPT, text)
            for pattern, put in KEY_PATTERNS:
                text = pattern.sub(put, text)
            return text

        return clean

    def field(self, name: str, value: Any, clean: Callable[[str], str]) -> Any:
        """An `extra` field as it may be shown."""
        if name.lower() in KEY_FIELDS:
            return KEY
        if name.lower() in PROMPT_FIELDS and not self._shows_prompts:
            return PROMPT
        if value is None or isinstance(value, bool | int | float):
            return value
        return clean(value if isinstance(value, str) else repr(value))


@lru_cache(maxsize=4 * MOST_PROMPTS)
def prompt_pattern(prompt: str) -> re.Pattern[str]:
    """Finds a prompt as it is, as Python's `repr` and JSON write it, and cut short.

    >>> prompt_pattern("a dog").sub("*", "refused: 'a dog' is short, a dogma")
    "refused: '*' is short, a dogma"
    """
    found = []
    for text in dict.fromkeys((prompt, repr(prompt)[1:-1], ascii(prompt)[1:-1], json.dumps(prompt)[1:-1])):
        if len(text) > HEAD:
            found.append(re.escape(text[:HEAD]) + ".*")
        else:
            before = r"(?<!\w)" if text[:1].isalnum() else ""
            after = r"(?!\w)" if text[-1:].isalnum() else ""
            found.append(before + re.escape(text) + after)
    return re.compile("|".join(found), re.DOTALL)

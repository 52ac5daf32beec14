"""What a prompt is before it is encoded. No torch here: whoever keys by prompts reads it."""

from __future__ import annotations

import html
import re

from rushes.trace import traced


@traced("tokenize")
def clean_prompt(prompt: str) -> str:
    """What Wan's reference makes of a prompt: ftfy, HTML unescaped twice, white space collapsed.

    ftfy repairs mojibake, straightens quotes and drops control characters; quotes that HTML entities spell
    come after it and stay curly. Halves of surrogate pairs, which no UTF-8 text holds, become U+FFFD.

    Example:
        >>> clean_prompt("  \u201csalt\u201d &amp;amp; pepper\\n")
        '"salt" & pepper'
    """
    import ftfy  # 0.1 s, which nobody who gives embeddings needs to wait for

    text = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()

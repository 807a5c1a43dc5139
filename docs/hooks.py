"""Links of the website: a file outside of docs/ is named, not linked, because it is no page."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]*)[^)\s]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces `[text](../path)` by the text and the path."""
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)

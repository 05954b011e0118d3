"""What the site adds to pages while it is built; mkdocs calls these functions by their names."""

from __future__ import annotations

import re
from typing import Any

UNTRANSLATED = (
    '<div class="admonition note" lang="ja"><p class="admonition-title">'
    "このページはまだ翻訳されていないため、英語で表示しています。</p></div>"
)
_ARTICLE = re.compile(r'(<article class="md-content__inner[^>]*)>')


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Mark an English page that stands in for a translation, for readers and for their programs.

    It is done after the page has been indexed for the search, which leaves out pages that are the
    same in both languages.
    """
    file = page.file
    own = getattr(file, "locale", "en")
    if own == getattr(file, "locale_alternate_of", own):
        return output
    return _ARTICLE.sub(rf'\1 lang="{own}">{UNTRANSLATED}', output, count=1)

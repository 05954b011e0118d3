"""What the site adds to pages while it is built; mkdocs calls these functions by their names."""

from __future__ import annotations

from typing import Any

UNTRANSLATED = (
    '<div class="admonition note"><p class="admonition-title">'
    "このページはまだ翻訳されていないため、英語で表示しています。</p></div>"
)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Mark an English page that stands in for a translation, for readers and for their programs."""
    file = page.file
    built_for = getattr(file, "locale_alternate_of", "en")
    if getattr(file, "locale", "en") == built_for:
        return html
    return f'{UNTRANSLATED}<div lang="{file.locale}">{html}</div>'

"""The page as HTML: a file of its own, or a fragment for a notebook, from one template.

Text is escaped where it is written: in markup by Jinja2, in data of the page's script as JSON
without a character that HTML knows. Characters that act, such as marks of direction, become
escapes before. The file allows only the scripts and styles whose hashes it names, and no
connection; nothing in it names another file.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from plop_lora._version import __version__
from plop_lora.escapes import escaped
from plop_lora.reports.page.blocks import Download, Page
from plop_lora.reports.text import text

if TYPE_CHECKING:
    from jinja2 import Template

MARK = "<!-- plop-lora report -->"
"""The line near the beginning by which a report is known, in HTML and in Markdown."""
PAGE, FRAGMENT = "page.html.j2", "fragment.html.j2"
LIBRARY, SCRIPTS, STYLE = "vega.js", ("allocate.js", "page.js"), "page.css"
_UNSAFE = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def html_page(page: Page) -> str:
    """Return the page as one HTML file that needs no other."""
    return _write(PAGE, page)


def fragment(page: Page) -> str:
    """Return the page as a fragment for a notebook, whose styles do not reach it, nor it them."""
    return _write(FRAGMENT, page)


def _write(template: str, page: Page) -> str:
    words = text(page.language)
    data = {
        "figures": {
            f"{section.name}-{figure.name}": {"spec": figure.spec, "canvas": figure.canvas}
            for section in page.sections
            for figure in section.figures
        },
        "explorers": {
            section.name: dataclasses.asdict(section.explorer)
            for section in page.sections
            if section.explorer is not None
        },
        "words": {name: words(f"explorer.{name}") for name in ("small", "whole")},
    }
    document = script_json(data)
    scripts = [asset(LIBRARY), "\n".join(map(asset, SCRIPTS))]
    return _template(template).render(
        page=page,
        declarative=template == PAGE,
        words=words,
        tone=lambda tone: words(f"tone.{tone}"),
        version=__version__,
        mark=MARK,
        identity=f"plop-{hashlib.sha256(document.encode()).hexdigest()[:12]}",
        data=document,
        style=asset(STYLE),
        scripts=scripts,
        policy=_policy(scripts, [asset(STYLE), asset("host.css")]),
        host_style=asset("host.css"),
    )


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("plop_lora.reports.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters["uri"] = _uri
    environment.filters["trusted"] = _trusted
    return environment.get_template(name)


def _finalized(value: Any) -> Any:
    """Return a value with the characters that act as escapes; what the package brings is kept."""
    from markupsafe import Markup

    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _trusted(value: str) -> Any:
    """Mark a style, a script or escaped JSON, which is not to be escaped again."""
    from markupsafe import Markup

    return Markup(value)


def _uri(download: Download) -> str:
    """Return a file as the address of a link that saves it."""
    content = base64.b64encode(download.content.encode()).decode()
    return f"data:application/octet-stream;base64,{content}"


def script_json(value: Any) -> str:
    r"""Return plain values as JSON that ends no script element and holds no character that acts.

    >>> script_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    document = json.dumps(_shown(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return document.translate(_UNSAFE)


def _shown(value: Any) -> Any:
    """Return plain values with the characters that act as escapes."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, dict):
        return {_shown(key): _shown(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(entry) for entry in value]
    return value


@cache
def asset(name: str) -> str:
    """Return a file of the package that the page brings with it."""
    folder = resources.files("plop_lora.reports.page") / "assets"
    return (folder / name).read_text(encoding="utf-8")


def _policy(scripts: list[str], styles: list[str]) -> str:
    """Return a content security policy that allows these scripts and styles, and nothing else."""
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hashes(contents: list[str]) -> str:
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        for content in contents
    )

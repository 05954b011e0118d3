"""The router of an A/B test: a proxy in front of a server with several adapters.

    settings = Settings(upstream="http://127.0.0.1:8000", models={"now": "base", ...}, ...)
    serve(settings, run, sink)

The server has OpenAI's interface, as vLLM and SGLang do. A request has a unit, the unit has an arm,
and the router writes the name of that arm's model into the request. Everything else of the request
and the answer passes through. Whatever fails on the router's own side sends the request to the
control.

Imports no torch; the web server and the client are imported when a router is made.
"""

from plop_lora.ab.router.server import serve
from plop_lora.ab.router.settings import Limits, Secrets, Settings

__all__ = ["Limits", "Secrets", "Settings", "serve"]

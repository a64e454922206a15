"""The user's own layers and sources, carried from the client to the ranks.

Code reaches workers only from the client, which is trusted; nothing here reads input files.
"""

from __future__ import annotations

import base64

import cloudpickle

from cosdask.data import register_source, registered_sources, sources_by_value
from cosdask.nn.user_code import dump_layers, load_layers


def dump_plugins() -> str:
    """What the client's session has registered, as text for a job."""
    mine = {"layers": dump_layers(), "sources": registered_sources()}
    with sources_by_value():
        return base64.b64encode(cloudpickle.dumps(mine)).decode() if any(mine.values()) else ""


def load_plugins(text: str) -> None:
    """Register in this process what :func:`dump_plugins` found in the client's."""
    if not text:
        return
    mine = cloudpickle.loads(base64.b64decode(text))
    load_layers(mine["layers"])
    for name, cls in mine["sources"].items():
        register_source(name)(cls)

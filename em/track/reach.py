"""Whether W&B is told now or later: by the setting, by `WANDB_MODE`, or by whether there is a key for its server."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from em.config import WandbMode

SERVER = "https://api.wandb.ai"
OLD_WORDS = {"run": "online", "dryrun": "offline"}


def mode(wanted: WandbMode, server: str = SERVER) -> str:
    """What `wandb.init` is told: online, offline, or another word of `WANDB_MODE`.

    Args:
        server: the address that W&B's own settings give, where there is no `WANDB_BASE_URL`.
    """
    if wanted is not WandbMode.auto:
        return str(wanted.value)
    if said := os.environ.get("WANDB_MODE"):
        return str(OLD_WORDS.get(said, said))
    return "online" if has_key(os.environ.get("WANDB_BASE_URL") or server) else "offline"


def has_key(server: str) -> bool:
    """Whether a key for this server is in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    files = [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in filter(Path.is_file, files):
        try:
            return netrc.netrc(str(file)).hosts.get(urlsplit(server).hostname or "") is not None
        except (netrc.NetrcParseError, OSError):
            return False
    return False

"""The hub, from which comes what is no directory here: that it is asked, or cannot be reached, is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from hyperadapt.errors import notice, reason_of


@contextmanager
def asking(name: str, field: str) -> Iterator[str | None]:
    """Load what has this name within; what was downloaded before is found where the hub cannot be reached.

    Libraries of the hub ask for each file seven times before they give up, and wait in between, for a minute in all.
    Where no answer comes to a first question, they are offline within, as with HF_HUB_OFFLINE=1.

    Args:
        name: of a model; where it is a directory, or a path, nothing is asked.
        field: where the name stands, for the notice.

    Yields:
        Why the hub cannot be reached; None where it can, or is not needed.
    """
    from huggingface_hub import constants

    if Path(name).is_dir() or not may_be_there(name):
        yield None
        return
    before = constants.HF_HUB_OFFLINE
    if not before and not is_downloaded(name):
        notice(f"{field}: '{name}' is no directory here; the hub is asked for it")
    unreachable = why_unreachable()
    constants.HF_HUB_OFFLINE = unreachable is not None
    try:
        yield unreachable
    finally:
        constants.HF_HUB_OFFLINE = before


def may_be_there(name: str) -> bool:
    """Tell whether a name may be one of the hub, OWNER/NAME, and is no path."""
    return bool(name) and not name.startswith((".", "/", "~")) and name.count("/") < 2


def is_downloaded(name: str) -> bool:
    """Tell whether a model of this name, or a part of it, was downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def why_unreachable() -> str | None:
    """Ask the hub for a sign of life, as huggingface_hub would, by way of a proxy too; tell why none comes."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    address, seconds = constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT
    why = [f"{address} does not answer within {seconds} s; HF_HUB_ETAG_TIMEOUT=60 waits longer"]

    def ask() -> None:
        try:
            get_session().head(address, timeout=seconds)
            why.clear()  # whatever it answers
        except Exception as error:  # those of its HTTP library, or that it is to be offline
            why[:] = [f"{address} cannot be reached: {reason_of(error)}"]

    # In a thread, as the limit is one for each address, of which a name may have eight.
    asked = Thread(target=ask, daemon=True)
    asked.start()
    asked.join(seconds)
    return why[0] if why else None

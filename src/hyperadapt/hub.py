"""The hub, from which comes what is no directory here: that it is asked, or cannot be reached, is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock, Thread

from hyperadapt.errors import notice, reason_of

# To be offline is a state of the whole process: of threads that load, one waits for the other.
_LOADING = RLock()
_TOLD: set[tuple[str, str]] = set()  # names that the hub was asked for, and where they stand
_ANSWERED: set[str] = set()  # addresses that need not be asked again for a sign of life


@contextmanager
def asking(name: str, field: str) -> Iterator[str | None]:
    """Load what has this name within; what was downloaded before is found where the hub cannot be reached.

    Libraries of the hub ask for each file seven times before they give up, and wait in between, for a minute in all.
    Where no answer comes to a first question, they are offline within, as with HF_HUB_OFFLINE=1.

    Args:
        name: of a model or data set; where it is a directory, or a path, nothing is asked.
        field: where the name stands, for the notice.

    Yields:
        Why the hub cannot be reached; None where it can, or is not needed.
    """
    from huggingface_hub import constants

    if Path(name).is_dir() or not may_be_there(name):
        yield None
        return
    with _LOADING:
        before = constants.HF_HUB_OFFLINE
        if not before and (field, name) not in _TOLD and not is_downloaded(name):
            notice(f"{field}: '{name}' is no directory here; the hub is asked for it")
        unreachable = why_unreachable()
        if unreachable and not before and (field, name) not in _TOLD and is_downloaded(name):
            notice(f"{field}: '{name}' is as it was downloaded before: {unreachable}")
            _TOLD.add((field, name))
        if unreachable is None:
            _TOLD.add((field, name))
        constants.HF_HUB_OFFLINE = unreachable is not None
        try:
            yield unreachable
        finally:
            constants.HF_HUB_OFFLINE = before


def may_be_there(name: str) -> bool:
    """Tell whether a name may be one of the hub, OWNER/NAME, and is no path."""
    return bool(name) and not name.startswith((".", "/", "~")) and name.count("/") < 2


def is_downloaded(name: str) -> bool:
    """Tell whether a model or data set of this name, or a part of it, was downloaded before."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folders = (repo_folder_name(repo_id=name, repo_type=kind) for kind in ("model", "dataset"))
    return any((Path(HF_HUB_CACHE) / folder).is_dir() for folder in folders)


def why_unreachable() -> str | None:
    """Ask the hub for a sign of life, as huggingface_hub would, by way of a proxy too; tell why none comes."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    address, seconds = constants.ENDPOINT, constants.HF_HUB_ETAG_TIMEOUT
    if address in _ANSWERED:
        return None
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
    if why:
        return why[0]
    _ANSWERED.add(address)
    return None

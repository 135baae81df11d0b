"""Libraries in C write remarks straight to descriptor 2; a notebook would keep them as errors."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_saved = -1


@contextmanager
def quiet_stderr(target: str | os.PathLike = os.devnull) -> Iterator[None]:
    """Send descriptor 2 of this process to the file ``target`` while any thread is inside.

    Processes that are started inside inherit it. Where threads overlap, the first one's target
    serves all.
    """
    global _inside, _saved
    with _lock:
        if _inside == 0:
            file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            _saved = os.dup(2)
            os.dup2(file, 2)
            os.close(file)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                os.dup2(_saved, 2)
                os.close(_saved)

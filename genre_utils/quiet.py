"""Libraries in C write remarks straight to descriptor 2; a notebook would keep them as errors."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0
_saved = -1


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send descriptor 2 of this process to nowhere while any thread is inside."""
    global _inside, _saved
    with _lock:
        _inside += 1
        if _inside == 1:
            _saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            os.close(null)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                os.dup2(_saved, 2)
                os.close(_saved)

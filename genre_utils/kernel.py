"""One Jupyter kernel for all notebooks of a run: the libraries are imported once.

Between two notebooks its namespace is emptied, figures are closed and Keras' counters start anew:
a notebook finds what it would find in a kernel of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines

ENGINE = "one-kernel"
CLEAR = """
import sys
if "matplotlib.pyplot" in sys.modules:
    sys.modules["matplotlib.pyplot"].close("all")
if "keras" in sys.modules:
    sys.modules["keras"].utils.clear_session()
get_ipython().reset(new_session=True)
"""


@contextmanager
def started() -> Iterator[AsyncKernelManager]:
    """Start a kernel for `papermill.execute_notebook`: ``engine_name=ENGINE, manager=...``."""
    manager = AsyncKernelManager(kernel_name="python3")
    run_sync(manager.start_kernel)(extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
    try:
        yield manager
    finally:
        run_sync(manager.shutdown_kernel)(now=True)


class OneKernel(Engine):
    """papermill's own engine, but the kernel is given, and lives on."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        manager: AsyncKernelManager,
        **_others: Any,  # noqa: ANN401
    ) -> NotebookNode:
        """Execute all cells, then clear the kernel for the next notebook."""
        client = PapermillNotebookClient(nb_man, km=manager, kernel_name=kernel_name)
        try:
            notebook = client.execute()
            run_sync(_clear)(client.kc)
            return notebook
        finally:  # two clients at once would get each other's answers
            client.kc.stop_channels()


async def _clear(client: AsyncKernelClient) -> None:
    await client.execute(CLEAR, silent=True, store_history=False, reply=True)


papermill_engines.register(ENGINE, OneKernel)

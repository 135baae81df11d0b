"""Errors that are the user's to mend: one clear line, never a traceback."""


class GenreUtilsError(Exception):
    """Something failed for a reason that one line explains (exit code 1)."""

    def _render_traceback_(self) -> list[str]:
        """Show the line alone in a notebook; IPython looks for this method."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(GenreUtilsError):
    """The call itself is wrong: an unknown name, type or combination (exit code 2)."""

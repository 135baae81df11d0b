"""Errors that are the user's to mend: one clear line, never a traceback."""


class GenreUtilsError(Exception):
    """Something failed for a reason that one line explains (exit code 1)."""


class UsageError(GenreUtilsError):
    """The call itself is wrong: an unknown name, type or combination (exit code 2)."""

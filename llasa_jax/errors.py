"""The one exception that a user may cause."""


class UserError(Exception):
    """Bad input: one line that says what, where and what to do.

    The command line prints it as ``llasa: error: ...`` and exits with status 2.
    """

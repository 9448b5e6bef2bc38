"""The exceptions that a user may cause."""


class UserError(Exception):
    """Bad input: one line that says what, where and what to do.

    The command line prints it as ``llasa: error: ...`` and exits with status 2.
    """


class Saved(KeyboardInterrupt):
    """Stopped as asked, by SIGTERM, after everything was saved.

    The command line exits with status 75, which service managers know as "try again".
    """

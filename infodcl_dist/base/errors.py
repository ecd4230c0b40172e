"""The one kind of error a user can act on."""


class UserError(Exception):
    """Something the user must change: a bad file, key, value or plan.

    The message is one line that names the place (file and line, or configuration key) and what to do. The commands
    print it as `error: …` on standard error and exit with status 2; it never comes with a traceback.
    """

"""The one kind of error a user can act on, and the part of it that passes."""


class UserError(Exception):
    """Something the user must change: a bad file, key, value or plan.

    The message is one line that names the place (file and line, or configuration key) and what to do. The commands
    print it as `error: …` on standard error and exit with status 2; it never comes with a traceback.
    """


class Unavailable(UserError):
    """What the machine refuses now, and the same command may do later: no room, no permission, a lock in other hands.

    Of many attempts that share the machine (the trials of a sweep) it says nothing about the one that met it.
    """

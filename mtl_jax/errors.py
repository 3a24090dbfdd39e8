"""The error that a user can mend: its message is one line that says where, what, and the way out."""


class UserError(Exception):
    """Something given by the user is wrong: a file, a setting, an argument.

    The message is a single line naming the file and line (or the configuration key), what was found, and what to
    do about it. The command line prints it without a traceback and exits with status 2.
    """

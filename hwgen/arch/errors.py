"""Errors that a user can cause; the command line prints them as one sentence and exits with code 2."""


class UserError(ValueError):
    """Something the user gave is wrong; the text says what, where, and what is allowed."""


class ArchError(UserError):
    """An architecture description is malformed."""


class ProgramError(UserError):
    """An instruction does not fit its fields or the architecture."""

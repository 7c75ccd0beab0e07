"""Every error that flowctl raises on purpose. The name says whose fault it is.

::

    FlowctlError
    ├── UserError                    the user's file or words            exit 2
    │   ├── InvalidSpecError         a pipeline file, all its problems at once
    │   ├── InvalidIdError           a name that cannot be a subject token
    │   ├── InvalidSettingError      an environment variable, flag or config file
    │   └── DamagedFileError         an exported file is not what was written
    ├── RefusedError                 a valid request that today's state does not allow
    │   └── NotFoundError            it names something that does not exist
    ├── JournalError                 the journal
    │   ├── ConflictError            somebody else wrote to the aggregate first: read again, decide again
    │   ├── JournalUnavailableError  the server does not answer          exit 3
    │   ├── JournalMisconfiguredError  the server would lose what it acknowledges
    │   ├── JournalCorruptError      entries are missing or changed
    │   ├── DeadLettersFullError     there is no room for another dead letter
    │   ├── LetterTooLargeError      the server takes no message as large as this dead letter
    │   └── NoticesFullError         there is no room for another undelivered notice
    ├── ControlPlaneUnreachableError no service answers                  exit 3
    ├── DeadlineError                it took longer than the caller allows  exit 4
    ├── DriverError                  a driver could not start, stop or find an instance
    └── ComponentError               an author's code or the stream between two components
"""

from typing import Final

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USER: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_TIMED_OUT: Final = 4
EXIT_INTERRUPTED: Final = 130


class FlowctlError(Exception):
    """One clear sentence, optionally the ``place`` (``pipeline.yaml:12:7``) and a ``hint`` with the way out."""

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.message}{hint}"


class UserError(FlowctlError):
    """What the user wrote cannot be obeyed."""

    exit_code = EXIT_USER


class InvalidSpecError(UserError):
    """A pipeline file is wrong; ``problems`` holds every problem found, in file order."""

    def __init__(self, problems: list[UserError]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class InvalidIdError(UserError):
    """A name that cannot be a subject token, a file name and a host name at once."""


class InvalidSettingError(UserError):
    """A setting has a value that cannot be used."""


class DamagedFileError(UserError):
    """An exported file is damaged, cut off or none; ``place`` names the file, its member and the line where that is known."""


class RefusedError(FlowctlError):
    """The request is well-formed, and the present state does not allow it. ``refusal`` is the decision's own word for why."""

    refusal: str = "precondition"


class NotFoundError(RefusedError):
    """The request names something that does not exist."""


class JournalError(FlowctlError):
    """The journal could not do what was asked."""


class ConflictError(JournalError):
    """An aggregate's head is not the expected one; nothing was written."""


class JournalUnavailableError(JournalError):
    """The journal's server does not answer, or did not answer in time."""

    exit_code = EXIT_UNREACHABLE


class JournalMisconfiguredError(JournalError):
    """The server or a stream is configured so that acknowledged entries could be lost; the message names the setting."""


class JournalAbsentError(JournalMisconfiguredError):
    """The server has no journal yet, and whoever asked must not make one."""

    exit_code = EXIT_UNREACHABLE


class JournalCorruptError(JournalError):
    """Entries that were there are missing, out of order or changed."""


class DeadLettersFullError(JournalError):
    """There is no room for another dead letter; none was stored."""


class LetterTooLargeError(JournalError):
    """An event cannot be kept as a dead letter: the server takes no message of its size."""


class NoticesFullError(JournalError):
    """There is no room for another undelivered notice; none was stored."""


class ControlPlaneUnreachableError(FlowctlError):
    """No flowctl service answers."""

    exit_code = EXIT_UNREACHABLE


class DeadlineError(FlowctlError):
    """It did not finish within the time that the caller allows."""

    exit_code = EXIT_TIMED_OUT


class DriverError(FlowctlError):
    """A driver could not start, stop or find an instance."""


class ComponentError(FlowctlError):
    """An author's code failed, or the stream between two components did."""

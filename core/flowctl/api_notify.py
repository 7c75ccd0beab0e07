"""What is asked of the notifier, and what it answers; see ``flowctl.api``."""

import msgspec
from msgspec import field

from flowctl.api import Request


class RoutesRequest(Request, frozen=True, kw_only=True):
    """What does the notifier tell whom?"""


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """One route of the notifier. ``seq`` is the last entry that it is done with, ``waiting`` how many come after it.

    ``url`` is fit to be shown. The counters are since the notifier's start: ``failures`` of attempts, ``given_up`` of notices.
    """

    name: str
    subject: str
    where: dict[str, str]
    url: str
    mode: str
    state: str
    seq: int
    waiting: int
    delivered: int
    failures: int
    given_up: int
    last_error: str = ""


class RoutesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All routes, in the order of the settings. ``timeout_s`` is how long the notifier waits for the other end's answer."""

    routes: list[RouteView]
    timeout_s: float = 10.0


class TryRoutes(Request, frozen=True, kw_only=True):
    """Send a test event along a route, or along all of them."""

    route: str = ""


class TriedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; ``error`` is empty if it was taken."""

    name: str
    url: str
    error: str = ""


class TriedRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """Each route that was tested."""

    routes: list[TriedRoute]


class RedriveNotices(Request, frozen=True, kw_only=True):
    """Send undelivered notices once more: those with these numbers, those of a route, or all."""

    numbers: list[int] = field(default_factory=list[int])
    route: str = ""


class RedrivenNotice(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one; ``error`` is empty if it was taken, and then it is kept no more."""

    number: int
    seq: int
    error: str = ""


class RedrivenNotices(msgspec.Struct, frozen=True, kw_only=True):
    """Each notice that was sent once more."""

    notices: list[RedrivenNotice]

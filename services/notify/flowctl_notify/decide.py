"""What does an answer mean for a notice: is it delivered, tried again later, or given up? Pure."""

from typing import Final

import msgspec

AGAIN: Final = frozenset({408, 425, 429})
MAX_RETRY_AFTER_S: Final = 300.0


class Policy(msgspec.Struct, frozen=True):
    """How often and how long apart: the delay doubles from ``backoff_s`` to ``backoff_max_s``."""

    attempts: int
    backoff_s: float
    backoff_max_s: float


class Answer(msgspec.Struct, frozen=True):
    """What the other end answered. ``detail`` is the beginning of the body, ``retry_after_s`` what it asks for."""

    status: int
    detail: str = ""
    retry_after_s: float | None = None


class NoAnswer(msgspec.Struct, frozen=True):
    """Nobody answered, or not in time."""

    reason: str


class Delivered(msgspec.Struct, frozen=True):
    """Somebody took it."""


class Retry(msgspec.Struct, frozen=True):
    """Try again after this time."""

    after_s: float
    reason: str


class GivenUp(msgspec.Struct, frozen=True):
    """Trying again is no use, or was tried often enough."""

    reason: str


Verdict = Delivered | Retry | GivenUp


def judge(answer: Answer | NoAnswer, attempt: int, policy: Policy) -> Verdict:
    """What becomes of a notice whose ``attempt`` (from 1) was answered so?"""
    if isinstance(answer, NoAnswer):
        return _later(answer.reason, attempt, policy)
    if 200 <= answer.status < 300:
        return Delivered()
    reason = f"HTTP {answer.status}{f': {answer.detail}' if answer.detail else ''}"
    if 300 <= answer.status < 400:
        return GivenUp(f"{reason} (redirects are not followed)")
    if 400 <= answer.status < 500 and answer.status not in AGAIN:
        return GivenUp(reason)
    return _later(reason, attempt, policy, answer.retry_after_s)


def _later(reason: str, attempt: int, policy: Policy, asked_s: float | None = None) -> Verdict:
    if attempt >= policy.attempts:
        return GivenUp(f"{reason} (tried {attempt} times)")
    delay_s = min(policy.backoff_max_s, policy.backoff_s * 2 ** min(attempt - 1, 30))
    return Retry(max(delay_s, min(asked_s or 0.0, MAX_RETRY_AFTER_S)), reason)

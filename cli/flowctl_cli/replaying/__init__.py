"""The services' decisions made once more over what was recorded: the same ones, or the first that differs.

``timeline`` puts entries and heartbeats in order; ``health``, ``planning`` and ``agents`` re-make one service's decisions each,
with that service's own pure functions on a clock that is the record's; ``report`` says what came of it. Everything here is pure
but ``sources``, which opens a file or the journal. Must never write to a journal.
"""

"""The counters of an instance as flowctl shows them, in the words of the balance."""

from typing import Any

from chaos.balance import Account, End, Share


def account(live: dict[str, Any]) -> Account:
    """The counters of an instance, as ``status --edges --json`` shows them."""
    return Account(
        instance=live["instance"].partition(".")[2],
        incarnation=live["incarnation"],
        ending=live["ending"],
        counters=live["metrics"],
        ends=[
            End(
                peer=edge["peer"],
                out=edge["direction"] == "out",
                events=edge["events_total"],
                acked=edge["acked_total"],
                in_flight=edge["in_flight"],
                superseded=edge["superseded_total"],
                dropped=edge["dropped_total"],
                sequence=(edge["sender_incarnation"], edge["epoch"]),
                next=edge["next_offset"],
                done=edge["done_offset"],
            )
            for edge in live["edges"]
        ],
        shares=[
            Share(
                component=group["component"],
                offered=group["offered_total"],
                acked=group["acked_total"],
                in_flight=group["in_flight"],
                dropped=group["dropped_total"],
                skipped=group["skipped_total"],
            )
            for group in live["groups"]
        ],
    )

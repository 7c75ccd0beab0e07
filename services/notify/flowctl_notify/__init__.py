"""The notifier: tells others, over HTTP, of the journal's entries that they asked for. One durable subscription a route.

``routes`` reads the settings' lines, ``cloudevents`` makes the request of an entry, ``decide`` says what an answer means (all
pure); ``delivery`` sends, ``worker`` serves one route. At least once and in order: an entry is done when somebody has taken it,
or when it is kept as an undelivered notice.

May import httpx, in ``delivery`` alone. Must never append to the journal, follow a redirect, or log an address or a secret.
"""

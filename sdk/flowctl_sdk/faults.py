"""What can go wrong on the data plane, by whose fault it is."""

from flowctl.errors import ComponentError


class ProtocolError(ComponentError):
    """The peer at the other end of a stream broke the protocol; only that stream ends."""


class EventTooLargeError(ComponentError):
    """An event does not fit into a message."""


class EventFailedError(ComponentError):
    """The author's code raised on an event, and the component's ``on_error`` says that this ends the instance."""


class ComponentFailedError(ComponentError):
    """The component cannot go on, whatever the event: it ends the instance, and ``on_error`` is not asked."""


class SupersededError(ComponentError):
    """A newer incarnation of this instance has registered: this one must end and not touch anything."""


class RegistrationRefusedError(ComponentError):
    """The registry says that this instance can never register as it is."""

"""What is decided without I/O: which entries go where, what is sent, what an answer means."""

import base64
import hashlib
import hmac
import json
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import InvalidSettingError
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentStatusChanged, JournalEvent
from flowctl.journal.log import Entry, Poison, Unknown
from flowctl.settings import NotifySettings, load_settings
from flowctl_notify.cloudevents import encoded, request, signature, signing_key
from flowctl_notify.decide import Answer, Delivered, GivenUp, NoAnswer, Policy, Retry, judge
from flowctl_notify.routes import Route, parse, parse_all

POLICY = Policy(attempts=4, backoff_s=1.0, backoff_max_s=3.0)
DATA = b'{"type":"ComponentStatusChanged","incarnation":1,"status":"unhealthy","previous":"healthy","reason":"\xc3\xbc"}'
CHANGED = ComponentStatusChanged(incarnation=1, status="unhealthy", previous="healthy", reason="ü")


def entry(event: JournalEvent | Unknown | Poison = CHANGED, data: bytes = DATA) -> Entry:
    return Entry(
        seq=42,
        time_ns=1_700_000_000_123_456_000,
        subject="flowctl.journal.component.orders.enrich.0.status_changed",
        aggregate=Aggregate.of_instance(InstanceId("orders", "enrich", 0)),
        event=event,
        id="abc-1",
        ce_type="flowctl.component.status_changed.v1",
        actor="health/h 1",
        correlation="",
        causation=41,
        data=data,
    )


def test_one_line_is_an_alert():
    """The whole configuration of an alert on status changes."""
    route = parse("component.*.*.*.status_changed -> https://alerts.example/hook")
    assert route.subject == "flowctl.journal.component.*.*.*.status_changed"
    assert (route.url, route.where, route.structured) == ("https://alerts.example/hook", (), False)
    assert route.wants(entry())
    assert not route.wants(entry(Poison("torn")))
    assert parse("component.*.*.*.status_changed -> https://alerts.example/hook").name == route.name


def test_a_name_conditions_and_the_mode():
    """`status=unhealthy` lets only that through; the name keeps the place when the address changes."""
    route = parse(
        "alerts: flowctl.journal.component.orders.*.*.status_changed status=unhealthy incarnation=1 -> ${env:HOOK} structured"
    )
    assert (route.name, route.structured, route.durable) == ("alerts", True, "flowctl-notify-alerts")
    assert route.wants(entry())
    assert not route.wants(entry(data=DATA.replace(b'"unhealthy"', b'"healthy"')))
    assert not route.wants(entry(data=b"[1]"))
    assert parse("p: pipeline.orders.> -> http://h/") == Route("p", "flowctl.journal.pipeline.orders.>", "http://h/")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("component.*.*.*.status_changed https://x.example", "it has no ->"),
        ("component.*.*.status_changed -> https://x.example", "no entry has a subject like"),
        ("component.*.*.*.status_chnged -> https://x.example", "there is no event 'status_chnged'"),
        ("comp onent -> https://x.example", "is not FIELD=VALUE"),
        ("component.Ü.*.*.exited -> https://x.example", "is not a subject"),
        ("component.*.*.*.exited -> ftp://x.example", "not http"),
        ("component.*.*.*.exited -> https://x.example loudly", "expected SUBJECT -> URL"),
        ("component.*.*.*.exited -> https://", "not http"),
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence(line: str, says: str):
    """It names the route and what is wrong, never the address: that may be a secret."""
    with pytest.raises(InvalidSettingError, match=says) as caught:
        parse(line)
    assert "x.example" not in str(caught.value) or "->" not in line.partition("x.example")[0]
    assert caught.value.exit_code == 2


def test_two_routes_of_one_name_are_refused():
    """They would share a place."""
    with pytest.raises(InvalidSettingError, match="two routes are called 'a'"):
        parse_all(["a: host.*.lost -> http://h/1", "a: host.*.left -> http://h/2"])


def test_the_shown_address_holds_no_secret():
    """Tokens stand in paths, queries and credentials."""
    assert parse("host.*.lost -> https://user:pw@h.example:8443/services/T0K3N?key=s").shown_url == "https://h.example:8443/…"
    assert parse("host.*.lost -> ${file:/run/hook}").shown_url == "${file:/run/hook}"


def test_settings_take_routes_from_a_list_and_from_one_text(monkeypatch: pytest.MonkeyPatch):
    """Separated by line breaks or semicolons in the environment."""
    monkeypatch.setenv("FLOWCTL_NOTIFY", "host.*.lost -> http://h/1; host.*.left -> http://h/2\n")
    assert load_settings(NotifySettings).notify == ["host.*.lost -> http://h/1", "host.*.left -> http://h/2"]
    assert load_settings(NotifySettings, notify=["a", "b"]).notify == ["a", "b"]
    secret = load_settings(NotifySettings, notify_secret="whsec_abc")
    assert "whsec_abc" not in repr(secret)


def test_binary_mode():
    """CloudEvents attributes as headers, percent-encoded; the data exactly as it is stored, so its hash can be checked."""
    sent = request(entry(), structured=False)
    assert sent.body == DATA
    assert sent.headers["content-type"] == "application/json"
    assert {name: value for name, value in sent.headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "abc-1",
        "ce-type": "flowctl.component.status_changed.v1",
        "ce-source": "/flowctl/health/h%201",
        "ce-subject": "orders.enrich.0",
        "ce-time": "2023-11-14T22:13:20.123456Z",
        "ce-dataschema": "urn:flowctl:v1:flowctl.component.status_changed.v1",
        "ce-actor": "health/h%201",
        "ce-causationid": "41",
        "ce-sequence": "42",
    }


def test_structured_mode():
    """One JSON object with the data in it."""
    sent = request(entry(), structured=True)
    assert sent.headers["content-type"].startswith("application/cloudevents+json")
    event = json.loads(sent.body)
    assert (event["id"], event["sequence"], event["data"]["reason"]) == ("abc-1", "42", "ü")
    assert not [name for name in sent.headers if name.startswith("ce-")]


@given(st.text(max_size=20).filter(lambda text: not any("\ud800" <= letter <= "\udfff" for letter in text)))
def test_any_attribute_can_be_a_header(value: str):
    """Only printable ASCII goes out, and what comes back is what went in."""
    assert all("!" <= letter <= "~" for letter in encoded(value))
    assert unquote(encoded(value)) == value


def test_signatures_are_those_of_standard_webhooks():
    """HMAC-SHA256 over id, time and body; both ways to write a key."""
    sent = request(entry(), structured=False, key=signing_key("key"), now_s=1_700_000_000)
    wanted = hmac.new(b"key", b"abc-1.1700000000." + DATA, hashlib.sha256).digest()
    assert sent.headers["webhook-signature"] == f"v1,{base64.b64encode(wanted).decode()}"
    assert (sent.headers["webhook-id"], sent.headers["webhook-timestamp"]) == ("abc-1", "1700000000")
    # The example of https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    known = signature(
        signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert known == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not!base64", "whsec_MfKQ9r8", "whsec_MfKQ 9r8G", "whsec_ü", "\udcff"])
def test_a_secret_that_is_no_key_is_refused(secret: str):
    """One sentence that names the setting and not what it holds; nothing in it is skipped, and none is no error."""
    with pytest.raises(InvalidSettingError, match=r"\Anotify: notify_secret is no key: ") as caught:
        signing_key(secret)
    assert caught.value.exit_code == 2
    assert secret == "whsec_" or secret not in str(caught.value)
    assert signing_key("") == b""


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(200), Delivered()),
        (Answer(204), Delivered()),
        (Answer(500, "oops"), Retry(1.0, "HTTP 500: oops")),
        (Answer(408), Retry(1.0, "HTTP 408")),
        (Answer(429, retry_after_s=7), Retry(7, "HTTP 429")),
        (Answer(503, retry_after_s=1e6), Retry(300.0, "HTTP 503")),
        (NoAnswer("no answer within 10 s"), Retry(1.0, "no answer within 10 s")),
        (Answer(404), GivenUp("HTTP 404")),
        (Answer(410, "gone"), GivenUp("HTTP 410: gone")),
        (Answer(302), GivenUp("HTTP 302 (redirects are not followed)")),
    ],
)
def test_what_an_answer_means(answer: Answer | NoAnswer, verdict: object):
    """Taken, later, or never."""
    assert judge(answer, 1, POLICY) == verdict


def test_the_waits_double_up_to_a_limit_and_end():
    """1, 2, 3 (the limit), then it is given up."""
    verdicts = [judge(Answer(500), attempt, POLICY) for attempt in (1, 2, 3, 4)]
    assert [verdict.after_s for verdict in verdicts if isinstance(verdict, Retry)] == [1, 2, 3]
    assert verdicts[3] == GivenUp("HTTP 500 (tried 4 times)")

"""Alerts: a JSON message to a webhook when something that nobody is looking at has gone wrong.

Belongs here: the message, and sending it without ever failing or delaying the caller for long. Does not
belong here: when to send one (`nutridet_assets.hooks`).

The address of a webhook is a secret: whoever has it can post. It is never logged, and neither are messages
of errors that might quote it; the log names the host and the kind of failure. Redirects are not followed. A
message that could not be delivered is not repeated: the failed check stays where people look, and the next
re-evaluation sends another.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from nutridet_core.artifacts.store import Manifest

LONGEST_WAIT = 10.0
"""Seconds in all. A socket's own timeout starts anew with every byte of a slow answer."""
_SOCKET_SECONDS = 5.0
_ACCEPTED = "accepted"

Event = Literal["champion_regressed", "reevaluation_failed"]


@dataclass(frozen=True)
class Alert:
    """What a receiver gets, as JSON. Chat services show `text` and ignore the rest."""

    event: Event
    text: str
    model: str
    details: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """UTF-8 JSON with the fields of this class."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()


def regression_alert(model: str, reevaluation: Manifest, links: Mapping[str, str]) -> Alert | None:
    """What to say about a re-evaluation; None when the champion is not shown to be worse."""
    audits = reevaluation.facts["audits"]
    regressed = audits["not_regressed"]
    if regressed["passed"]:
        return None
    version = reevaluation.facts["version"]
    evidence = dict(regressed["evidence"])
    change = {"metric": "mean_iou", "value": evidence["difference"], "low": evidence["low"], "high": evidence["high"]}
    return Alert(
        event="champion_regressed",
        text=f"{model}: the champion, version {version}, has regressed. {regressed['summary']}",
        model=model,
        details={
            "version": version,
            "release": reevaluation.facts["release"],
            "change": change,
            "n": evidence["photos"],
            "same_photos": evidence["paired"],
            "made": reevaluation.created,
            "other_checks": {name: audit["summary"] for name, audit in audits.items() if name != "not_regressed"},
        },
        links=links,
    )


def send_alert(alert: Alert, webhook: SecretStr, log: Callable[[str], None], *, seconds: float = LONGEST_WAIT) -> bool:
    """Post an alert; whether it was accepted. Raises nothing, and returns after `seconds` at the latest."""
    outcome: list[str] = []
    sender = threading.Thread(target=lambda: outcome.append(_post(alert, webhook)), daemon=True)
    sender.start()
    sender.join(seconds)
    result = outcome[0] if outcome else f"no answer within {seconds:g} s"
    log(f"alert {alert.event} to {_host(webhook)}: {result}")
    return result == _ACCEPTED


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without the message, and its answer would read as success."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _post(alert: Alert, webhook: SecretStr) -> str:
    """How it went, in words that quote nothing."""
    content, headers = alert.body, {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(webhook.get_secret_value(), content, headers, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SOCKET_SECONDS):
            return _ACCEPTED
    except urllib.error.HTTPError as error:
        return f"refused with status {error.code}"
    except urllib.error.URLError as error:
        return f"not reached ({type(error.reason).__name__})"
    except Exception as error:  # of sockets, TLS and HTTP, and some quote the address
        return f"not delivered ({type(error).__name__})"


def _host(webhook: SecretStr) -> str:
    try:
        return urlsplit(webhook.get_secret_value()).hostname or "the webhook"
    except ValueError:  # quotes the address
        return "the webhook"

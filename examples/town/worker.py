"""
What the town does once a change has arrived at the remote: it writes letters.
"""

import os
from email.message import EmailMessage
from smtplib import SMTP

from ferry import Extension, Landing

letters = Extension("letters")


@letters.after_push
def confirm(landing: Landing) -> None:
    """
    Write to people who have said that they come to an event.
    """
    for commit in landing.commits:
        for change in commit.changes:
            if change.sheet != "people" or change.after is None:
                continue
            before = change.before or {}
            for event in change.after.get("coming", []):
                if event not in before.get("coming", []) and "email" in change.after:
                    send(change.after["email"], event, commit.hash)


def send(address: str, event: str, commit: str) -> None:
    """
    Send one letter. After a crash it may be sent again, with the same Message-ID.
    """
    letter = EmailMessage()
    letter["From"], letter["To"] = "town@example.org", address
    letter["Subject"] = f"See you at {event}"
    letter["Message-ID"] = f"<{commit}.{event.replace('/', '.')}@town.example.org>"
    letter.set_content("We look forward to it.")
    host, _, port = os.environ["TOWN_SMTP"].partition(":")
    with SMTP(host, int(port), timeout=10) as server:
        server.send_message(letter)

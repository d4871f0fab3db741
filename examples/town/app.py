"""
The town's own rules, login and routes, over the sheets of people and events.
"""

import os

from flask import Request, Response, jsonify, request
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.security import check_password_hash, generate_password_hash

from ferry import Caller, Extension, Refused, Write

town = Extension("town")

PASSWORDS = {name: generate_password_hash("picnic") for name in ("jane", "bob")}  # yours are in a file
SESSIONS = URLSafeTimedSerializer(os.environ["TOWN_SECRET"], salt="session")
DAY_S = 24 * 3600


@town.route("/api/town/login", methods=["POST"], public=True)
def login() -> Response:
    """
    Sign in with a name and a password, and get a session.
    """
    name = request.form.get("name", "")
    if not check_password_hash(PASSWORDS.get(name, ""), request.form.get("password", "")):
        raise Refused("Name or password is wrong.", code="login-wrong", status=401)
    answer = jsonify(name=name)
    answer.set_cookie("session", SESSIONS.dumps(name), max_age=DAY_S, httponly=True, samesite="Lax")
    return answer


@town.authenticate
def by_session(request: Request) -> Caller | None:
    """
    Say whose session a request carries.
    """
    try:
        name = SESSIONS.loads(request.cookies.get("session", ""), max_age=DAY_S)
    except BadSignature:
        return None
    return Caller(name, scopes=["read:*", "write:people"])


@town.before_write("people")
def only_their_own(write: Write) -> None:
    """
    Let people change their own record only. Under `ferry dev`, a caller who is not signed in is `dev`. What a
    merge brings, others were allowed to push.
    """
    if not write.is_merge and write.caller.name not in ("dev", write.path):
        raise Refused("You may change your own record only.", code="not-yours", status=403)


@town.route("/api/town/rsvp/<path:event>", methods=["POST"])
def rsvp(caller: Caller, event: str) -> Response:
    """
    Say that you come to an event: both records say so, in one commit.
    """
    with town.transact(f"{caller.name} comes to {event}", caller=caller) as tx:
        guests = tx.read("events", event).get("guests", [])
        if caller.name not in guests:
            coming = tx.read("people", caller.name).get("coming", [])
            tx.patch("events", event, {"guests": [*guests, caller.name]})
            tx.patch("people", caller.name, {"coming": [*coming, event]})
    return tx.answer()

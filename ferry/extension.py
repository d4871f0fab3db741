"""
What an extension registers: rules for writes, routes, ways to know a caller, functions for what happened.

Extensions import ``Extension`` from ``ferry``. It only collects; ``ferry.loading`` imports the modules, and
``ferry.app`` and ``ferry.worker`` call what they have registered. Nothing here imports the rest of Ferry.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args, overload

from ferry.commits import Commit, Divergence, Landing
from ferry.writes import NAME, Caller, Reader, Transaction, Write

if TYPE_CHECKING:
    from flask import Blueprint, Request

Rule = Callable[[Write], None]
View = Callable[..., Any]
Authenticator = Callable[["Request"], Caller | None]
AfterCommit = Callable[[Commit], None]
AfterPush = Callable[[Landing], None]
AfterDivergence = Callable[[Divergence], None]
# What has happened when the worker calls a function.
Event = Literal["commit", "push", "divergence"]
EVENTS: tuple[Event, ...] = get_args(Event)
_F = TypeVar("_F", bound=Callable[..., Any])
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    A route that an extension has registered.

    Attributes:
        path: In Flask's form, such as ``/api/town/rsvp/<event>``.
        methods: Its HTTP methods.
        view: The extension's function.
        public: Whether it is answered without a token.
        openapi: Members of its OpenAPI operation, which replace those made from the function.
        parameters: Names of the parameters in the path.
        wants_caller: Whether the function takes ``caller``.
    """

    path: str
    methods: tuple[str, ...]
    view: View
    public: bool
    openapi: Mapping[str, Any]
    parameters: tuple[str, ...]
    wants_caller: bool


@dataclass(slots=True)
class Hooks:
    """
    What an extension has registered, in order.

    Attributes:
        rules: The functions under ``before_write``, each with its sheets; None: every sheet.
        routes: Its routes.
        authenticators: The functions under ``authenticate``.
        after: The functions under ``after_commit``, ``after_push`` and ``after_divergence``, by the event.
        blueprint: Its own Flask blueprint, if it has asked for one.
    """

    rules: list[tuple[frozenset[str] | None, Rule]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    authenticators: list[Authenticator] = field(default_factory=list)
    after: dict[Event, list[Callable[[Any], None]]] = field(default_factory=dict)
    blueprint: Blueprint | None = None

    def __str__(self) -> str:
        counts = {
            "rule": len(self.rules),
            "route": len(self.routes),
            "authenticator": len(self.authenticators),
            "blueprint": 1 if self.blueprint else 0,
        }
        told = [f"{n} {word}{'s' * (n > 1)}" for word, n in counts.items() if n]
        told += [f"{len(functions)} after_{event}" for event, functions in self.after.items()]
        return ", ".join(told)

    def __bool__(self) -> bool:
        return bool(self.rules or self.routes or self.authenticators or self.after or self.blueprint)


class Host(Protocol):
    """
    What runs extensions: an API process.
    """

    def transact(
        self, extension: str, message: str, caller: Caller | None
    ) -> AbstractContextManager[Transaction]:
        """
        Open a transaction for the current request.
        """

    def snapshot(self) -> Reader:
        """
        Return the records as the last commit has them.
        """


class Extension:
    """
    Rules, logins and endpoints of your own, in a module that ``CFP_API_EXTENSIONS`` names.

    Args:
        name: Its name in logs, problems and metrics: up to 63 letters, digits, ``_`` and ``-``.

    Raises:
        ValueError: The name does not have this form.
    """

    host: ClassVar[Host | None] = None

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name) or "." in name:
            raise ValueError(f"an extension's name has letters, digits, '_' and '-', got {name!r}")
        self.name = name
        self.hooks = Hooks()
        self._module = str(sys._getframe(1).f_globals.get("__name__", "__main__"))

    @overload
    def before_write(self, rule: Rule, /) -> Rule: ...
    @overload
    def before_write(self, *sheets: str) -> Callable[[Rule], Rule]: ...
    def before_write(self, *given: Any) -> Any:
        """
        Call the function before each write to *sheets*; without a name, to every sheet.

        It receives a ``Write`` under the write lock, returns nothing, and may change ``write.after`` or raise
        ``Refused``. The rules of one commit have two seconds together. A rule may be called again for
        the same write, so it must have no side effects.

        It is also called for the changes that a merge with a remote makes here, in a separate process and on
        the merged records.
        """
        if len(given) == 1 and callable(given[0]):
            self.hooks.rules.append((None, given[0]))
            return given[0]
        if not all(isinstance(sheet, str) for sheet in given):
            raise TypeError("before_write takes names of sheets")

        def register(rule: Rule) -> Rule:
            self.hooks.rules.append((frozenset(given) or None, rule))
            return rule

        return register

    def route(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        public: bool = False,
        openapi: Mapping[str, Any] | None = None,
    ) -> Callable[[_F], _F]:
        """
        Answer requests to *path* with the function, which takes ``caller`` and the parameters of the path.

        It returns a dict or any other value that a Flask view may return. It raises ``Refused`` to refuse.

        Args:
            path: In Flask's form, such as ``/api/town/rsvp/<event>``.
            methods: Its HTTP methods.
            public: Whether the request needs no token; ``caller`` is then None if the sender is unknown.
            openapi: Members of the route's operation in ``/openapi.json``, in addition to those from the
                function's docstring and type hints.

        Raises:
            ValueError: The path does not begin with ``/``.
            TypeError: The function takes other parameters.
        """
        if not path.startswith("/"):
            raise ValueError(f"a route's path begins with '/', got {path!r}")
        if isinstance(methods, str):
            raise TypeError(f"methods is a list, such as [{methods!r}]")
        parameters = tuple(_PARAMETER.findall(path))

        def register(view: _F) -> _F:
            taken = tuple(inspect.signature(view).parameters)
            if set(taken) - {"caller"} != set(parameters):
                raise TypeError(
                    f"{view.__name__}({', '.join(taken)}) must take caller, and of {path}: "
                    f"{', '.join(parameters) or 'nothing'}"
                )
            self.hooks.routes.append(
                Route(
                    path=path,
                    methods=tuple(method.upper() for method in methods),
                    view=view,
                    public=public,
                    openapi=dict(openapi or {}),
                    parameters=parameters,
                    wants_caller="caller" in taken,
                )
            )
            return view

        return register

    def authenticate(self, known: Authenticator) -> Authenticator:
        """
        Ask the function for the sender of a request that carries none of Ferry's own tokens.

        It receives Flask's request, and returns a ``Caller``, or None for a request that it does not know.
        Under ``ferry dev``, it is asked first, and an unknown sender is ``dev``.
        """
        self.hooks.authenticators.append(known)
        return known

    def after_commit(self, function: AfterCommit) -> AfterCommit:
        """
        Call the function in the worker after each commit of the branch, also after commits of others.

        It receives a ``Commit``: parents before their children, one at a time, at least once. While it
        raises an exception or takes too long, it is called again for the same commit, with growing pauses,
        and later commits wait.
        """
        return self._after("commit", function)

    def after_push(self, function: AfterPush) -> AfterPush:
        """
        Call the function in the worker after commits have arrived at ``origin``, whichever way they came.

        It receives a ``Landing``: in order, one at a time, at least once. What arrives while it fails or runs
        is one further landing.
        """
        return self._after("push", function)

    def after_divergence(self, function: AfterDivergence) -> AfterDivergence:
        """
        Call the function in the worker, at least once, when ``origin`` and the branch have diverged.

        It receives a ``Divergence``. A divergence that ends before the function has succeeded is not
        reported.
        """
        return self._after("divergence", function)

    def _after(self, event: Event, function: _F) -> _F:
        if not callable(function):
            raise TypeError(f"after_{event} takes a function: write it as @{self.name}.after_{event}")
        self.hooks.after.setdefault(event, []).append(function)
        return function

    def transact(self, message: str, *, caller: Caller | None = None) -> AbstractContextManager[Transaction]:
        """
        Change records in one commit, which the block's end makes; an exception in it discards everything.

        The write lock is held for the block, which has two seconds. Rules apply; the caller's scopes do not:
        what a route may do is the extension's decision. If the request repeats an ``Idempotency-Key``, the
        block runs again on the same commit as the first time, and changes nothing. A request with a key can
        therefore have only one transaction.

        Args:
            message: What the commit does, in one line. It comes below the summary line of every commit, which
                names the caller and the route.
            caller: The commit's author; None: the extension itself.

        Raises:
            RuntimeError: No request is being answered, another transaction of the request is open, or the
                request has an ``Idempotency-Key`` and this is its second transaction.
        """
        return self._host().transact(self.name, message, caller)

    def snapshot(self) -> Reader:
        """
        Return the records as the last commit has them, for a route that only reads: it takes no lock, and a
        replica answers it, too.

        Raises:
            RuntimeError: No request is being answered.
        """
        return self._host().snapshot()

    def _host(self) -> Host:
        if self.host is None:
            raise RuntimeError("transact and snapshot are for functions that answer a request to the API")
        return self.host

    @property
    def blueprint(self) -> Blueprint:
        """
        A Flask blueprint with the extension's name, for anything that a route cannot do. Its views need no
        token.
        """
        if self.hooks.blueprint is None:
            from flask import Blueprint  # the worker loads extensions too, and most need no Flask there

            self.hooks.blueprint = Blueprint(self.name, self._module, template_folder="templates")
        return self.hooks.blueprint

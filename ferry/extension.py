"""
What an extension registers: rules for writes, routes, and ways to know a caller.

Extensions import ``Extension`` from ``ferry``. It only collects; ``ferry.loading`` imports the modules, and
``ferry.app`` calls what they have registered. Nothing here imports the rest of Ferry.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

from ferry.writes import NAME, Caller, Transaction, Write

if TYPE_CHECKING:
    from flask import Blueprint, Request

Rule = Callable[[Write], None]
View = Callable[..., Any]
Authenticator = Callable[["Request"], Caller | None]
_F = TypeVar("_F", bound=Callable[..., Any])
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """
    A route that an extension has registered.

    Attributes:
        path: As Flask writes it, such as ``/api/town/rsvp/<event>``.
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
        blueprint: Its own Flask blueprint, if it has asked for one.
    """

    rules: list[tuple[frozenset[str] | None, Rule]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    authenticators: list[Authenticator] = field(default_factory=list)
    blueprint: Blueprint | None = None

    def __str__(self) -> str:
        counts = {
            "rule": len(self.rules),
            "route": len(self.routes),
            "authenticator": len(self.authenticators),
            "blueprint": 1 if self.blueprint else 0,
        }
        return ", ".join(f"{n} {word}{'s' * (n > 1)}" for word, n in counts.items() if n)

    def __bool__(self) -> bool:
        return bool(self.rules or self.routes or self.authenticators or self.blueprint)


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


class Extension:
    """
    Rules, logins and endpoints of your own, in a module that ``CFP_API_EXTENSIONS`` names.

    Args:
        name: Its name in logs, problems and metrics: up to 63 letters, digits, ``_`` and ``-``.

    Raises:
        ValueError: The name is not so.
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
        the same write, so it has no effects of its own.
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
        Answer requests to *path* by the function, which takes ``caller`` and the parameters of the path.

        It returns a dict or whatever else a Flask view returns, and raises ``Refused`` to refuse.

        Args:
            path: As Flask writes it, such as ``/api/town/rsvp/<event>``.
            methods: Its HTTP methods.
            public: Whether the request needs no token; ``caller`` is then None where none is known.
            openapi: Members of the route's operation in ``/openapi.json``, beside those made from the
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
        Ask the function who sent a request that carries none of Ferry's own tokens.

        It receives Flask's request, and returns a ``Caller``, or None for a request that it does not know.
        Under ``ferry dev`` it is asked first, and who is unknown is ``dev``.
        """
        self.hooks.authenticators.append(known)
        return known

    def transact(self, message: str, *, caller: Caller | None = None) -> AbstractContextManager[Transaction]:
        """
        Change records in one commit, which the block's end makes; an exception in it discards everything.

        The write lock is held for the block, which has two seconds. Rules apply; the caller's scopes do not:
        what a route may do is the extension's decision. If the request repeats an ``Idempotency-Key``, the
        block runs on what it saw the first time, and changes nothing. A request with a key can therefore
        have one transaction only.

        Args:
            message: The commit's summary, in one line.
            caller: The commit's author; None: the extension itself.

        Raises:
            RuntimeError: It is not called while a request is answered, another transaction of the request is
                open, or the request has an ``Idempotency-Key`` and this is its second transaction.
        """
        if self.host is None:
            raise RuntimeError("transact is for functions that answer a request to the API")
        return self.host.transact(self.name, message, caller)

    @property
    def blueprint(self) -> Blueprint:
        """
        A Flask blueprint of the extension's name, for what a route cannot do. Its views ask for no token.
        """
        if self.hooks.blueprint is None:
            from flask import Blueprint  # the worker loads extensions too, and most need no Flask there

            self.hooks.blueprint = Blueprint(self.name, self._module, template_folder="templates")
        return self.hooks.blueprint

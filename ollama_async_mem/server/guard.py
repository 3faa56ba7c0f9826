"""What every request to every listener passes first: is it meant for us, who asks, and is it within the limits.

It owns the order of the checks. It knows no route but the open ones, and nothing of memory.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ollama_async_mem.server.access import LOCAL, Principal
from ollama_async_mem.server.errors import Refused, TooManyRequests, Unauthorized
from ollama_async_mem.server.limits import Buckets, Places
from ollama_async_mem.server.request import Request

if TYPE_CHECKING:
    from ollama_async_mem.server.keys import Key, KeyRing
    from ollama_async_mem.server.request import AsgiApp, AsgiScope, Receive, Rules, Send
    from ollama_async_mem.server.settings import ServerSettings

__all__ = ["OPEN_PATHS", "Guard", "Limits"]

# What the main listener answers without a key, also where keys are needed. All else needs one.
OPEN_PATHS = frozenset({"/healthz"})

# Who asks on those paths: somebody who may see and change nothing.
_NOBODY = Principal(name="nobody", user_id="", agent_id="", may_write=False)


class Limits:
    """What all listeners of a server count together."""

    def __init__(self, settings: ServerSettings) -> None:
        self.rates = Buckets(settings.requests_per_minute)
        self.failures = Buckets(settings.failures_per_minute)
        self.places = Places(settings.concurrency, settings.concurrency_per_key)


class Guard:
    """The ASGI app around an app: refuses, or tells the app in `scope["state"]["principal"]` who asks.

    The key goes no further than here, so that nothing behind can log it or hand it on.
    """

    def __init__(self, app: AsgiApp, rules: Rules, keys: KeyRing, limits: Limits) -> None:
        self._app = app
        self._rules = rules
        self._keys = keys
        self._limits = limits

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            raise RuntimeError(f"the server speaks HTTP alone, not {scope['type']}")
        request = Request(scope, receive, send, self._rules)
        try:
            await self._serve(request)
        except Refused as exc:
            if request.status:
                raise  # the answer has begun: all that is left is to break it off
            await request.refuse(exc)
        finally:
            request.audit_line()

    async def _serve(self, request: Request) -> None:
        request.check_origin()
        if request.is_preflight:
            await request.answer_preflight()
            return
        if request.is_to(OPEN_PATHS):
            request.let_in(_NOBODY)
            await request.run(self._app)
            return
        key = await self._key_of(request)
        request.let_in(key.principal if key else LOCAL, key.id if key else LOCAL.name)
        if key and (wait_s := self._limits.rates.take(key.id)):
            raise TooManyRequests("this key has used up its requests of this minute: wait", retry_after_s=wait_s)
        request.check_body()
        with self._limits.places.one(key.id if key else None):
            is_good_now = partial(self._keys.is_good_now, key) if key else self._keys.is_good_now
            await request.run(self._app, partial(self._keys.is_good, key), is_good_now)

    async def _key_of(self, request: Request) -> Key | None:
        """The key of a request; None where none is needed.

        A good one is never turned away for the wrong ones of others behind the same address: 256 random bits cannot be
        guessed, so what is limited is the noise.
        """
        await self._keys.refresh()
        shown = request.shown_key()
        if not self._keys.is_needed:
            request.require_direct()
            return None
        if shown is None:
            raise Unauthorized("this server needs a key: send it as 'Authorization: Bearer oam_...' or as X-API-Key")
        if key := self._keys.find(shown):
            return key
        if wait_s := self._limits.failures.take(request.address_group):
            raise TooManyRequests("too many wrong keys come from this address: wait", retry_after_s=wait_s)
        raise Unauthorized("the key is wrong or revoked: make one with 'ollama-async-mem keys create'")

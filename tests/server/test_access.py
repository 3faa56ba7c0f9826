"""Who may see what: the scope that a key is bound to is filled in, and no other one is let through."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_async_mem.records import Scope, Turn
from ollama_async_mem.server.access import LOCAL, Principal, principal_of
from ollama_async_mem.server.errors import Forbidden

NOW = datetime(2026, 5, 1, tzinfo=UTC)
IDS = st.none() | st.sampled_from(["alice", "bob", ""])


def turn(scope: Scope) -> Turn:
    """A memory of somebody."""
    return Turn(id="t", scope=scope, role="user", text="x", at=NOW, created_at=NOW)


@given(own_user=IDS, own_agent=IDS, user=IDS, agent=IDS)
def test_no_scope_leaves_what_the_principal_is_bound_to(
    own_user: str | None, own_agent: str | None, user: str | None, agent: str | None
) -> None:
    """Whatever is asked for: it is refused, or it is of the bound user and agent, and owned."""
    principal = Principal(name="k", user_id=own_user, agent_id=own_agent)
    try:
        scope = principal.scope(user, agent, "run")
    except Forbidden:
        assert (own_user is not None and user not in {None, own_user}) or (
            own_agent is not None and agent not in {None, own_agent}
        )
        return
    assert scope.run_id == "run"
    assert scope.user_id == (user if own_user is None else own_user)
    assert scope.agent_id == (agent if own_agent is None else own_agent)
    assert principal.owns(turn(scope))


def test_a_bound_principal_owns_nothing_of_others() -> None:
    """Neither of another user, nor of nobody."""
    alice = Principal(name="k", user_id="alice")
    assert alice.owns(turn(Scope("alice", "any", "any")))
    assert not alice.owns(turn(Scope("bob")))
    assert not alice.owns(turn(Scope(None, "any")))
    assert not Principal(name="k", agent_id="a").owns(turn(Scope("alice", "b")))


def test_rights_are_asked_for_by_name() -> None:
    """Reading needs no right, writing and administration do."""
    reader = Principal(name="k", may_write=False)
    with pytest.raises(Forbidden, match="--read-only"):
        reader.require_write()
    with pytest.raises(Forbidden, match="--read-only"):
        reader.require_admin()
    with pytest.raises(Forbidden, match="--admin"):
        Principal(name="k").require_admin()
    LOCAL.require_write()
    LOCAL.require_admin()


def test_an_app_without_a_guard_is_local() -> None:
    """With one, it is whoever the guard says."""
    alice = Principal(name="k", user_id="alice")
    assert principal_of({}) is LOCAL
    assert principal_of({"state": {}}) is LOCAL
    assert principal_of({"state": {"principal": alice}}) is alice

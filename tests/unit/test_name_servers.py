"""Which DNS server is asked first: penalties, parole, and who is praised or blamed for what."""

from __future__ import annotations

import pytest

from wgrouter.core.model import Nameserver
from wgrouter.core.name_memory import Flight, Health
from wgrouter.core.name_servers import PENALTY, PENALTY_MAX, Servers

A, B, C = (Nameserver(f"192.0.2.{n}") for n in (1, 2, 3))
NOW = 1000.0
DEAD = Health(answered=900.0, failures=1, until=NOW + 5)


def servers(**health: Health) -> Servers:
    of = {"a": A, "b": B, "c": C}
    return Servers((A, B, C), {of[name]: one for name, one in health.items()}, NOW)


def flight(server: Nameserver, sent: float = NOW - 0.1) -> Flight:
    return Flight("host", server, sent, sent + 2.5)


def test_the_healthy_as_given_then_the_dead_the_one_heard_last_first() -> None:
    long_dead, lately = Health(answered=100.0, failures=9), Health(answered=990.0, failures=1)
    assert servers(a=long_dead, b=lately).ranked() == [C, B, A]
    # That one of the healthy was heard later than the other is no reason to prefer it.
    assert servers(b=Health(answered=10.0), c=Health(answered=999.0)).ranked() == [A, B, C]
    assert servers(a=DEAD).is_dead(A) and not servers(a=DEAD).is_dead(B)


def test_a_penalty_doubles_up_to_a_ceiling_and_many_queries_are_one_failure() -> None:
    health: dict[Nameserver, Health] = {}
    now, waits = NOW, []
    for _ in range(15):
        turn = Servers((A,), health, now)
        turn.blame(A)
        turn.blame(A)  # the next query of the same silence
        waits.append(health[A].until - now)
        now = health[A].until
    assert waits[:4] == [PENALTY, 2 * PENALTY, 4 * PENALTY, 8 * PENALTY]
    assert set(waits[6:]) == {PENALTY_MAX}
    assert health[A].failures == 15


def test_an_answer_forgives_all_unless_it_is_a_slow_one_of_a_dead_server() -> None:
    turn = servers(a=DEAD, b=DEAD)
    turn.praise(flight(A), slow=False)
    turn.praise(flight(B), slow=True)
    turn.praise(flight(C), slow=True)
    assert turn.of(A) == Health(answered=NOW)
    assert turn.of(B) == Health(answered=NOW, failures=1, until=NOW + PENALTY_MAX), "stays behind"
    assert turn.of(C) == Health(answered=NOW), "a slow one that is all there is, is no dead one"


def test_a_server_that_is_gone_is_not_remembered() -> None:
    turn = servers()
    gone = Nameserver("192.0.2.99")
    turn.praise(flight(gone), slow=False)
    turn.blame(gone)
    assert turn.health == {}
    turn = servers(a=DEAD, b=DEAD)
    assert not turn.meet((B,)), "none of them is new"
    assert turn.health == {B: DEAD}
    assert turn.meet((B, gone))


@pytest.mark.parametrize(("answered", "silent"), [(899.0, True), (900.0, False), (901.0, False)])
def test_silence_is_counted_from_the_query(answered: float, silent: bool) -> None:
    assert servers(a=Health(answered=answered)).silent_since(flight(A, sent=900.0)) is silent


def test_one_query_at_a_time_tries_a_dead_server_beside_a_healthy_one() -> None:
    over = Health(answered=900.0, failures=2, until=NOW)
    turn = servers(a=over, b=DEAD)
    assert turn.parole(C, 1.5) == A, "its penalty is over, that of the other is not"
    assert turn.of(A) == Health(answered=900.0, failures=2, until=NOW + 1.5)
    assert turn.parole(C, 1.5) is None, "nobody else tries it meanwhile"
    assert servers(a=over, b=DEAD).parole(B, 1.5) is None, "beside a dead one a name would wait for both"
    assert servers().parole(A, 1.5) is None

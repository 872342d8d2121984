"""The whole engine against simulated worlds: hours of random faults, and what must hold in all of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.model import soak
from tests.model.fib import MAIN_RULES
from tests.model.world import World
from tests.model.world_faults import VERBS, heal, readdress, schedule, script, traffic, world_of
from tests.model.world_rules import Rules, outstanding, pure, recovery_bound
from wgrouter.core import messages
from wgrouter.core.codec import Decoder, encode
from wgrouter.core.engine import Engine
from wgrouter.core.findings import Why
from wgrouter.core.liveness import ALIVE, DEAD, IDLE
from wgrouter.core.messages import Effect, Provoke, SetEndpoint, Stopping
from wgrouter.core.settings import HostPort
from wgrouter.shell import replay
from wgrouter.shell.journal import SIZE

FAULTS = st.lists(
    st.tuples(st.floats(0.0, 900.0), st.sampled_from(sorted(VERBS)), st.integers(0, 99), st.integers(0, 99)),
    max_size=25,
)


def recover(world: World) -> dict[str, float]:
    """All faults end: the seconds until each site that can be reached is, checked against the bound."""
    heal(world)
    start, waiting, took = world.now, {}, {}
    for peer in world.tunnels.peers.values():
        asks = (
            peer.keepalive
            or peer.site.wanted
            or any(p.probe for p in world.settings.peers() if p.public_key == peer.site.key)
        )
        if world.reachable(peer) and asks:
            waiting[peer.site.key] = peer
    bound = recovery_bound(world)
    while waiting:
        assert world.now - start <= bound, (
            f"{[f'{key} at {peer.endpoint}' for key, peer in waiting.items()]} not back after {bound:.0f} s: "
            + "; ".join(f"{at - start:.0f} {finding}" for at, finding in list(world.findings)[-30:])
        )
        world.run(5.0)
        for key, peer in list(waiting.items()):
            if world.tunnels.fresh(peer) and peer.heard_at > start:
                took[key] = world.now - start
                del waiting[key]
    return took


def converged(world: World) -> None:
    """Nothing is left to do, and nothing is done, but to try a preferred endpoint."""
    world.run(600.0)
    assert outstanding(world) == ()
    state = world.engine.state
    since = world.now
    world.run(300.0)
    told = [(at, effect) for at, effect in world.changes if at >= since and not of_a_living(world, effect)]
    assert told == []
    for tunnel in state.settings.tunnels:
        for peer in tunnel.peers:
            seen = world.tunnels.peers[peer.id]
            if world.tunnels.fresh(seen) and seen.heard_at > world.now - 100.0:
                assert world.engine.state.tunnels.peers[peer.id].pulse.state in (ALIVE, IDLE), peer.subject


def of_a_living(world: World, effect: Effect) -> bool:
    """A trial of a preferred endpoint; or a remedy for a peer that nobody can reach."""
    key = getattr(effect, "public_key", "")
    peer = next((p for p in world.tunnels.peers.values() if p.site.key == key), None)
    if peer is None or not world.reachable(peer):
        return not isinstance(effect, (messages.AddRoute, messages.AddRule, messages.DeleteRule))
    care = world.engine.state.tunnels.peers[peer.device, key]
    return any(attempt.rung == "return" for attempt in care.attempts)


def replays(world: World) -> None:
    """The ring of the journal, written and read back, decides the same."""
    lines = [line + "\n" for line in world.journal.lines()]
    recording = replay.read(lines)
    assert recording.steps == len(world.journal)
    assert replay.replay(recording, Engine) == []


def round_trip(world: World) -> None:
    """What the engine remembers can be written and read."""
    state = world.engine.state
    text = json.dumps(encode(state), allow_nan=False)
    assert Decoder(replay.classes()).decode(json.loads(text)) == state


EXAMPLES = settings().max_examples  # of the profile: 100, or 5,000 in a soak


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [2] if EXAMPLES <= 100 else range(1, 31))
def test_a_day_of_faults(seed: int) -> None:
    """24 hours, about six faults an hour; then everything that can be reached is, within the bound."""
    world = world_of(seed, fast=True)
    Rules(world)
    schedule(world, script(seed, 24.0, 6.0))
    world.run(24 * 3600.0)
    replays(world)
    round_trip(world)
    recover(world)
    converged(world)


@pytest.mark.timeout(300)
def test_days_of_faults_leave_no_more_behind_than_the_first() -> None:
    """Hundreds of faults; `make soak ARGS=\'--days 30\'` has thousands, and larger routers."""
    sizes = []
    for world, size in soak.days(2, 2):
        sizes.append(size)
        assert size.entries <= world.journal_size and size.journal <= SIZE
        replays(world)
    assert soak.grown(sizes) == [], sizes
    converged(world)


def test_the_soak_sees_what_grows() -> None:
    flat = [soak.Size(0, 1000 + n % 3, 9000, 512, 9) for n in range(9)]
    assert soak.grown(flat) == []
    grown = [soak.Size(0, 1000 + 40 * n, 9000, 512, 9) for n in range(9)]
    assert soak.grown(grown) == ["values: 1080 at first, 1240 in the end"]
    assert soak.values({"a": (1, 2), "b": {"c": [HostPort("x", 1)]}}) == 7


@pytest.mark.timeout(300 if EXAMPLES <= 100 else 7200)
@settings(
    max_examples=max(EXAMPLES // 25, 1),
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shrunk story takes hours, a seed tells it too
)
@given(seed=st.integers(0, 10**6), faults=FAULTS)
def test_faults_in_any_order(seed: int, faults: list[tuple[float, str, int, int]]) -> None:
    world = world_of(seed, fast=True)
    Rules(world)
    schedule(world, sorted(faults))
    world.run(900.0)
    recover(world)
    replays(world)


# ---------------------------------------------------------------- one thing at a time


def at_rest(seed: int = 3) -> World:
    """A World in which every tunnel is up."""
    world = world_of(seed, fast=True)
    Rules(world)
    world.run(300.0)
    assert outstanding(world) == ()
    return world


def moves(world: World, since: float) -> list[SetEndpoint]:
    return [e for at, e in world.changes if at >= since and isinstance(e, SetEndpoint)]


@pytest.mark.parametrize("mode", ["silent", "nxdomain", "servfail", "lie", "slow", "refused", "garbage"])
def test_a_dns_failure_changes_no_endpoint(mode: str) -> None:
    world = at_rest()
    before = {key: peer.endpoint for key, peer in world.tunnels.peers.items()}
    for dns in world.dns.values():
        dns.mode = mode
    start = world.now
    world.run(1800.0)
    assert {key: peer.endpoint for key, peer in world.tunnels.peers.items()} == before
    assert moves(world, start) == []


def test_the_same_seed_decides_the_same() -> None:
    def told() -> tuple[list[object], int]:
        world = world_of(8, fast=True)
        schedule(world, script(8, 1.0, 20.0))
        world.run(3600.0)
        return [*world.findings, *world.changes], world.steps

    assert told() == told()


def test_deciding_twice_decides_the_same() -> None:
    world = world_of(4, fast=True)
    world.after.append(pure)
    schedule(world, script(4, 0.25, 40.0))
    world.run(900.0)


def test_a_refused_endpoint_is_tried_again_in_good_time() -> None:
    """An endpoint that the kernel refuses (the device is gone, say) is no reason to try without end."""
    world = at_rest()
    world.failing["SetEndpoint"] = "No such device"
    for index in range(len(world.sites)):
        VERBS["move"](world, index, 0)
    start = world.now
    world.run(600.0)
    tries = Counter(effect.public_key for effect in moves(world, start))
    assert tries and max(tries.values()) <= 40, tries
    world.failing.clear()
    assert recover(world)


@pytest.mark.parametrize("kind", ["SetFwmark", "AddRule", "AddRoute"])
def test_a_refused_effect_is_not_argued_with(kind: str) -> None:
    """A kernel that refuses for three minutes is asked ever more seldom, and then all is made good soon."""
    world = at_rest(7)
    world.failing[kind] = "Operation not supported"
    for number in range(3):
        VERBS["tamper"](world, 0, number)
    start, steps = world.now, world.steps
    world.run(180.0)
    assert world.steps - steps < 900, "no more than watched WANs and tunnels cost"
    tries = Counter(effect for at, effect in world.changes if type(effect).__name__ == kind and at >= start)
    assert tries and max(tries.values()) <= 12, tries.most_common(3)
    world.failing.clear()
    world.until(lambda: outstanding(world) == (), within=90.0)


def test_a_spent_budget_does_not_keep_a_tunnel_from_its_moved_name() -> None:
    world = at_rest()
    site = world.sites[0]
    tunnels = tuple(
        replace(tunnel, ladder=replace(tunnel.ladder, steps_per_hour=3)) for tunnel in world.settings.tunnels
    )
    world.settings = replace(world.settings, tunnels=tunnels)
    VERBS["reload"](world, 0, 0)
    traffic(world, 0, 5.0)
    for door in site.doors:
        readdress(world, door)
    world.until(lambda: len(world.care(0).spent) >= 3, within=300.0)
    world.run(60.0)
    assert world.care(0).pulse.state == DEAD and world.care(0).resume_at > world.now + 3000.0
    for door in site.doors:
        world.publish(door)
    moved = world.now
    world.until(lambda: world.peer(0).heard_at > moved, within=world.ttl + 30.0)


def test_a_peer_dead_for_ever_costs_little_and_the_others_nothing() -> None:
    world = at_rest()
    rules = Rules(world)
    traffic(world, 0, 5.0)
    world.sites[0].up = False
    world.run(3600.0)
    start, counts = world.now, Counter(world.counts)
    others = {key: peer.handshake for key, peer in world.tunnels.peers.items() if key[1] != "key0"}
    rules.most.clear()
    world.run(4 * 3600.0)
    spent = {kind: count / 4 for (kind, subject), count in rules.most.items() if "site0" in subject}
    steps = len([f for _, f in world.said(Why.TUNNEL_STEP, start) if f.subject.endswith("site0")])
    assert 4 <= steps / 4 <= 60, steps
    assert (world.counts["Ask"] - counts["Ask"]) / 4 < 600 * len(world.sites), spent
    assert all(effect.public_key == "key0" for effect in moves(world, start))
    assert others and all(world.tunnels.peers[key].handshake != token for key, token in others.items())


def test_a_peer_that_roams_alive_is_left_where_it_is() -> None:
    world = at_rest(33)
    index = next(i for i, site in enumerate(world.sites) if site.keepalive and site.up)
    peer, start = world.peer(index), world.now
    VERBS["roam"](world, index, peer.site.door)
    world.until(lambda: peer.site.at(peer.endpoint) is not None, within=60.0)  # type: ignore[arg-type]
    there, known = peer.endpoint, world.now
    world.run(1800.0)
    assert peer.endpoint == there and world.tunnels.fresh(peer)
    assert not [effect for effect in moves(world, known) if effect.public_key == peer.site.key]
    assert [f for _, f in world.said(Why.TUNNEL_ROAMED, start) if f.subject.endswith(f"site{index}")]


def test_a_killed_agent_finds_everything_as_it_should_be() -> None:
    world = at_rest()
    VERBS["kill"](world, 0, 0)
    start, before = world.now, {key: peer.endpoint for key, peer in world.tunnels.peers.items()}
    world.run(120.0)
    assert outstanding(world) == ()
    # Endpoints are set once more, as they are: nobody knows where the packets went meanwhile.
    assert {key: peer.endpoint for key, peer in world.tunnels.peers.items()} == before
    done = [e for at, e in world.changes if at >= start]
    assert all(isinstance(effect, (SetEndpoint, Provoke)) for effect in done), done
    assert len(done) <= 2 * len(before)


def test_a_stop_takes_away_what_is_ours_and_nothing_else() -> None:
    world = at_rest(7)
    assert world.ours and len(world.rules) > len(MAIN_RULES)
    world.push(0.0, Stopping())
    world.run(10.0)
    assert world.ours == () and world.rules == MAIN_RULES and not world.nft
    marks = {tunnel.device: tunnel.fwmark for tunnel in world.settings.tunnels}
    assert {device: mark for device, mark in world.tunnels.marks.items() if mark} == {}, marks
    steps = world.steps
    world.run(600.0)
    assert world.steps - steps <= 20, "a stopped engine asks for nothing"

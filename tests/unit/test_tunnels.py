"""Care for peers over time: what is done when, how long proof is waited for, and what leaves a peer alone.

`Bench` is the least of a world: a device whose peer lives at some endpoints, look after look. The whole
engine is put to a larger one in tests/model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from wgrouter.core import detours, liveness, tunnels
from wgrouter.core.care import Memory, Outlook
from wgrouter.core.findings import Finding, Why
from wgrouter.core.machine import Context
from wgrouter.core.messages import (
    CHANGES,
    Configured,
    Effect,
    Event,
    Failed,
    ForgetFlows,
    Look,
    Observed,
    Probe,
    Replied,
    SetEndpoint,
    SetListenPort,
    Woke,
)
from wgrouter.core.model import NEVER, WIREGUARD, DeviceSeen, Endpoint, PeerSeen, World
from wgrouter.core.settings import HostPort, Ladder, Peer, Settings, Tunnel

KEY = "key"
NAMED = HostPort("vpn.example.net", 51820)


SIBLING = Peer("wg0", "sib", "sibling", (HostPort("192.0.2.9", 51820),), allowed_ips=("10.0.0.9/32",))


def at(last: int, port: int = 51820) -> Endpoint:
    return Endpoint(f"192.0.2.{last}", port)


@dataclass
class Bench:
    """One peer of wg0. `alive`: endpoints where it answers, as long as it still has the session."""

    peer: Peer = Peer(
        "wg0", KEY, "office", (NAMED,), keepalive=25, allowed_ips=("10.0.0.1/32",), probe="10.0.0.1"
    )
    ladder: Ladder = Ladder()
    answers: dict[str, tuple[Endpoint, ...]] = field(default_factory=lambda: {NAMED.host: (at(1),)})
    alive: set[Endpoint] = field(default_factory=lambda: {at(1)})
    session: bool = True
    enabled: bool = True
    ways: tuple[str, ...] = ()  # WANs, the usual one first
    working: frozenset[str] = frozenset()  # those that reach the peer; without any ways all do
    pingable: bool = (
        True  # else a firewall behind the peer drops probes, and WireGuard answers with a keepalive
    )
    sibling: bool = False  # a second peer of wg0, which lives whatever happens
    turned_back: int = 0  # so often WireGuard follows an answer back to the alternative endpoint
    now: float = 100.0

    def __post_init__(self) -> None:
        self.memory = Memory()
        self.seen = PeerSeen(KEY, at(1), (1, 0), 1000, 1000, 25)
        self.effects: list[tuple[float, Effect]] = []
        self.findings: list[tuple[float, Finding]] = []
        self.pending: list[tuple[float, Event]] = []
        self.asked = NEVER
        self.initiated = self.kept_alive = 0.0
        self.last = self.world
        self.step(Configured(self.settings))
        self.look()

    @property
    def settings(self) -> Settings:
        peers = (self.peer, SIBLING) if self.sibling else (self.peer,)
        return Settings(enabled=self.enabled, tunnels=(Tunnel("wg0", ladder=self.ladder, peers=peers),))

    @property
    def world(self) -> World:
        peers = {KEY: self.seen}
        if self.sibling:
            peers["sib"] = PeerSeen("sib", at(9), (1, 0), rx_bytes=int(self.now * 100))
        return World(wireguard={"wg0": DeviceSeen("wg0", listen_port=4000, peers=peers)})

    def outlook(self) -> Outlook:
        def resolved(place: HostPort) -> tuple[Endpoint, ...]:
            return tuple(replace(e, port=place.port) for e in self.answers.get(place.host, ()))

        return Outlook(
            resolved,
            lambda host, since: True,
            lambda host: "",
            frozenset({4}),
            ways=lambda device, family: self.ways,
        )

    def reached(self) -> bool:
        """Whether what is sent now comes to the peer."""
        way = detours.courses(self.memory).get("wg0", self.ways[0]) if self.ways else ""
        return self.seen.endpoint in self.alive and (not self.ways or way in self.working)

    def step(self, event: Event, before: World | None = None) -> None:
        context = Context(self.now, self.settings, self.world, "seed")
        devices = (before or self.world).wireguard
        turn = tunnels.step(self.memory, event, context, self.outlook(), devices)
        self.memory = turn.memory
        self.findings += [(self.now, finding) for finding in turn.findings]
        for effect in turn.effects:
            self.effects.append((self.now, effect))
            if isinstance(effect, SetEndpoint):
                back = self.turned_back > 0 and effect.endpoint == at(1)
                self.turned_back -= back
                self.seen = replace(self.seen, endpoint=at(1, 51821) if back else effect.endpoint)
            elif isinstance(effect, Probe):
                self.seen = replace(self.seen, tx_bytes=self.seen.tx_bytes + 128)
                if self.session and self.reached() and not self.pingable:
                    self.kept_alive = min(self.kept_alive, self.now)
                elif self.session and self.reached():
                    self.seen = replace(self.seen, rx_bytes=self.seen.rx_bytes + 128)
                    self.pending.append((self.now + 0.02, Replied(effect.id, 0.02)))
                else:
                    self.asked = min(self.asked, self.now)

    def look(self) -> None:
        """WireGuard keeps alive, and makes a new session after SILENCE if somebody is there; then a look."""
        before = self.last
        if self.now - self.asked >= liveness.SILENCE and self.now - self.initiated >= liveness.REKEY_TIMEOUT:
            self.initiated = self.now
            self.seen = replace(self.seen, tx_bytes=self.seen.tx_bytes + 148)
            if self.reached():
                self.session, self.asked = True, NEVER
                token = (self.seen.handshake[0] + 1, 0)
                self.seen = replace(self.seen, handshake=token, rx_bytes=self.seen.rx_bytes + 92)
        if self.now - self.kept_alive >= liveness.KEEPALIVE_TIMEOUT:
            self.kept_alive = self.now
            here = 32 if self.session and self.reached() else 0
            self.seen = replace(
                self.seen, tx_bytes=self.seen.tx_bytes + 32, rx_bytes=self.seen.rx_bytes + here
            )
        self.last = self.world
        self.step(Observed(wireguard=self.world.wireguard), before)

    def run(self, seconds: float) -> None:
        """Half a second between looks, and every wake-up."""
        end = self.now + seconds
        look_at = self.now + 0.5
        while self.now < end:
            due = min(look_at, self.memory.wake, *(at for at, _ in self.pending))
            self.now = max(self.now, due)
            ready = [event for at, event in self.pending if at <= self.now]
            self.pending = [(at, event) for at, event in self.pending if at > self.now]
            for event in ready:
                self.step(event)
            if self.now >= look_at:
                self.look()
                look_at = self.now + 0.5
            elif not ready:
                self.step(Woke())

    @property
    def state(self) -> str:
        return self.memory.peers[self.peer.id].pulse.state

    def endpoints(self) -> list[Endpoint]:
        """Those set, without repetition in a row."""
        found: list[Endpoint] = []
        for _, effect in self.effects:
            if isinstance(effect, SetEndpoint) and found[-1:] != [effect.endpoint]:
                found.append(effect.endpoint)
        return found

    def said(self, why: Why) -> list[tuple[float, Finding]]:
        return [(at, finding) for at, finding in self.findings if finding.why is why]


def test_a_living_peer_is_left_alone() -> None:
    bench = Bench()
    bench.run(600)
    assert bench.state == liveness.ALIVE
    assert not [effect for _, effect in bench.effects if isinstance(effect, CHANGES)]


def test_a_peer_taken_in_by_a_reload_has_the_session_that_it_has() -> None:
    bench = Bench(enabled=True)
    bench.step(Configured(Settings()))
    bench.step(Configured(bench.settings))
    bench.look()
    assert bench.state == liveness.ALIVE
    assert bench.memory.peers[bench.peer.id].pulse.session


def test_a_busy_peer_is_probed_once_to_learn_whether_it_answers() -> None:
    """Else its silence would be borne for 15 s: no probe is sent while traffic shows life."""
    bench = Bench()
    for _ in range(60):
        bench.run(0.5)
        bench.seen = replace(bench.seen, rx_bytes=bench.seen.rx_bytes + 1280)
    assert bench.memory.peers[bench.peer.id].pulse.probe_answered
    assert len([effect for _, effect in bench.effects if isinstance(effect, Probe)]) == 1


def test_an_answer_in_the_tunnel_that_waits_behind_a_slow_look_is_not_missed() -> None:
    """A small router may be away for seconds: silence is judged when everything read has been told."""
    bench = Bench()
    while not bench.pending:
        bench.run(0.01)
    (_, answer), *_ = bench.pending
    bench.pending, bench.now = [], bench.now + 3.0
    bench.step(Observed(wireguard=bench.world.wireguard), bench.world)
    assert bench.memory.peers[bench.peer.id].pulse.misses == 0
    assert bench.memory.wake == bench.now + tunnels.TICK
    late = replace(bench)
    late.memory, late.now = bench.memory, bench.memory.wake
    late.step(Woke())
    assert late.memory.peers[bench.peer.id].pulse.misses == 1
    bench.step(answer)
    assert bench.memory.peers[bench.peer.id].pulse.misses == 0


def test_a_peer_behind_a_firewall_is_not_doubted_for_its_silent_target() -> None:
    """Its probes ask, and WireGuard's own keepalive answers ten seconds later: that is life enough."""
    bench = Bench(pingable=False)
    bench.run(600)
    assert bench.said(Why.TUNNEL_SUSPECT) == bench.said(Why.TUNNEL_DEAD) == []
    probes = [effect for _, effect in bench.effects if isinstance(effect, Probe)]
    assert len(probes) <= 61  # one in ten seconds, never a burst
    bench.alive = set()
    begin = bench.now
    while bench.state != liveness.DEAD:
        bench.run(0.5)
    assert bench.now - begin < 30


def test_a_target_that_answers_no_more_is_told_from_a_dead_peer() -> None:
    """Once it is taken for death; then the peer is known to live without answering."""
    bench = Bench()
    bench.run(60)
    bench.pingable = False
    bench.run(300)
    assert len(bench.said(Why.TUNNEL_DEAD)) <= 1
    assert bench.state == liveness.ALIVE


def test_a_moved_name_is_followed_at_once_and_proven() -> None:
    bench = Bench()
    bench.run(60)
    bench.answers[NAMED.host], bench.alive = (at(2),), {at(2)}
    begin = bench.now
    bench.run(5)
    assert bench.endpoints() == [at(2)]
    assert bench.state == liveness.ALIVE
    assert [said - begin <= 0.5 for said, _ in bench.said(Why.TUNNEL_MOVED)] == [True]


def test_the_second_address_of_a_moved_name_is_tried_as_soon_as_the_first_is_known_to_be_silent() -> None:
    """Probes say so in four seconds; the wait for a new session (21.5 s) is for the last address."""
    bench = Bench()
    bench.run(60)
    bench.answers[NAMED.host], bench.alive = (at(2), at(3)), {at(3)}
    begin = bench.now
    bench.run(0.5)
    # What came in since the look before is seen by the look after the move, and is no life after it.
    bench.now += 0.005
    bench.seen = replace(bench.seen, rx_bytes=bench.seen.rx_bytes + 1000)
    bench.look()
    bench.run(15)
    assert bench.endpoints() == [at(2), at(3)]
    (recovered, finding), *_ = bench.said(Why.TUNNEL_RECOVERED)
    assert recovered - begin < 6
    assert finding.arguments["rung"] == "next-address"
    assert not [effect for _, effect in bench.effects if isinstance(effect, ForgetFlows)]


def test_the_last_address_of_a_moved_name_gets_the_time_that_a_new_session_needs() -> None:
    """The peer has lost its session too (it was restarted): no port is changed before WireGuard asks."""
    bench = Bench()
    bench.run(60)
    bench.answers[NAMED.host], bench.alive, bench.session = (at(2), at(3)), {at(3)}, False
    bench.run(30)
    assert bench.state == liveness.ALIVE
    assert bench.endpoints() == [at(2), at(3)]
    assert not [effect for _, effect in bench.effects if isinstance(effect, SetListenPort)]


def test_a_peer_that_was_restarted_where_its_name_moved_is_found_without_ado() -> None:
    bench = Bench()
    bench.run(60)
    bench.answers[NAMED.host], bench.alive, bench.session = (at(2),), {at(2)}, False
    bench.run(30)
    assert bench.state == liveness.ALIVE
    assert bench.endpoints() == [at(2)]


def test_a_dead_peer_is_helped_in_the_order_of_the_ladder() -> None:
    bench = Bench()
    bench.run(60)
    bench.alive = set()
    bench.run(60)
    rungs = [finding.arguments["rung"] for _, finding in bench.said(Why.TUNNEL_STEP)]
    assert rungs[:4] == ["resolve", "endpoint", "forget-flows", "new-port"]
    assert len(bench.said(Why.TUNNEL_WAITING)) >= 1


def test_a_name_that_moves_while_a_remedy_is_waited_for_ends_the_wait() -> None:
    bench = Bench()
    bench.run(60)
    bench.alive = set()
    while not any(finding.arguments["rung"] == "forget-flows" for _, finding in bench.said(Why.TUNNEL_STEP)):
        bench.run(0.5)
    bench.answers[NAMED.host], bench.alive = (at(2),), {at(2)}
    begin = bench.now
    bench.run(3)
    assert bench.state == liveness.ALIVE
    assert bench.said(Why.TUNNEL_RECOVERED)[0][0] - begin < 2


def test_an_endpoint_that_cannot_be_set_is_no_endless_loop() -> None:
    """The name has moved and the kernel refuses: each refusal costs a step, and steps are counted."""
    bench = Bench()
    bench.run(60)
    bench.alive = set()
    bench.run(10)
    bench.answers[NAMED.host] = (at(2),)
    count = len(bench.effects)
    for _ in range(200):
        before = bench.seen
        bench.run(0.5)
        for _, effect in bench.effects[count:]:
            if isinstance(effect, SetEndpoint):
                bench.seen = replace(bench.seen, endpoint=before.endpoint)
                bench.step(Failed(effect, "Operation not supported", 95))
        count = len(bench.effects)
    assert len(bench.memory.peers[bench.peer.id].spent) <= bench.ladder.steps_per_hour
    assert len(bench.said(Why.TUNNEL_STEP)) <= bench.ladder.steps_per_hour


def test_switched_off_nothing_is_done_and_what_was_begun_is_dropped() -> None:
    bench = Bench()
    bench.run(60)
    bench.alive = set()
    while not bench.said(Why.TUNNEL_STEP):
        bench.run(0.5)
    bench.enabled = False
    bench.step(Configured(bench.settings))
    count = len(bench.effects)
    bench.answers[NAMED.host] = (at(2),)
    bench.run(300)
    assert not [effect for _, effect in bench.effects[count:] if isinstance(effect, (*CHANGES, Probe))]
    assert bench.state == liveness.DEAD  # it still looks
    bench.enabled, bench.alive = True, {at(2)}
    bench.step(Configured(bench.settings))
    bench.run(30)
    assert bench.state == liveness.ALIVE


ALTERNATIVE = replace(Bench().peer, endpoints=(NAMED, HostPort(NAMED.host, 51821)))


def on_the_alternative() -> Bench:
    """The preferred endpoint died, the alternative one was found, and both work now."""
    bench = Bench(peer=ALTERNATIVE, alive={at(1), at(1, 51821)}, ladder=Ladder(return_after=60.0))
    bench.run(30)
    bench.alive = {at(1, 51821)}
    while not bench.said(Why.TUNNEL_RECOVERED):
        bench.run(0.5)
    assert bench.seen.endpoint == at(1, 51821)
    bench.alive = {at(1), at(1, 51821)}
    return bench


def test_an_alternative_is_left_for_the_preferred_endpoint_when_that_works_again() -> None:
    bench = on_the_alternative()
    bench.run(80)
    assert bench.seen.endpoint == at(1)
    assert len(bench.said(Why.TUNNEL_RETURNED)) == 1
    assert bench.said(Why.TUNNEL_RETURN_FAILED) == []


def test_an_answer_by_the_old_path_does_not_end_the_trial() -> None:
    """It was on its way when the endpoint was set, and WireGuard follows it: that loses no trial."""
    bench = on_the_alternative()
    bench.turned_back = 1
    bench.run(80)
    assert bench.turned_back == 0
    assert bench.seen.endpoint == at(1)
    assert len(bench.said(Why.TUNNEL_RETURNED)) == 1


def test_a_peer_that_always_answers_by_the_old_path_stays_there() -> None:
    bench = on_the_alternative()
    count = len(bench.effects)
    bench.turned_back = 1000
    bench.run(80)
    sets = [effect for _, effect in bench.effects[count:] if isinstance(effect, SetEndpoint)]
    assert len(sets) <= 10  # a trial, and its repetitions in two seconds
    assert bench.state == liveness.ALIVE


def test_a_peer_that_calls_from_inside_its_own_tunnel_is_fetched_out() -> None:
    """A tunnel that lost its mark for a moment carries its own packets, and WireGuard follows them in."""
    bench = Bench()
    bench.run(60)
    within = Endpoint("10.0.0.1", 51820)
    bench.seen, bench.alive = replace(bench.seen, endpoint=within), {at(1), within}
    bench.run(5)
    assert bench.seen.endpoint == at(1)
    said = bench.said(Why.TUNNEL_MOVED)
    assert said[-1][1].arguments["reason"] == "it lies in the tunnel"
    assert not bench.said(Why.TUNNEL_ROAMED)
    # Where the far end calls from there again and again, it is told so now and then only.
    for _ in range(60):
        bench.seen = replace(bench.seen, endpoint=within)
        bench.run(1)
    assert 3 <= len(bench.said(Why.TUNNEL_MOVED)) - len(said) <= 5


def test_the_doubt_is_never_of_not_having_looked() -> None:
    """A look just after an endpoint was set sees what was sent and not yet what came back."""
    bench = Bench()
    bench.run(60)
    bench.now += 0.01
    bench.seen = replace(bench.seen, tx_bytes=bench.seen.tx_bytes + 128)
    bench.step(Observed(wireguard=bench.world.wireguard), bench.last)
    assert bench.memory.look_at - bench.now < 1.5


def test_who_is_taken_for_dead_is_looked_at_before_anything_is_done() -> None:
    """The last look may be a second old: what came since shows before the first remedy but a look-up."""
    bench = Bench()
    bench.run(60)
    bench.alive = set()
    while not (dead := bench.said(Why.TUNNEL_DEAD)):
        bench.run(0.5)
    at_once = [effect for at_, effect in bench.effects if at_ == dead[0][0]]
    assert Look((WIREGUARD,)) in at_once
    assert not any(isinstance(effect, SetEndpoint) for effect in at_once)


def test_without_an_answer_the_ladder_is_climbed_with_the_endpoint_that_is_there() -> None:
    """An agent that starts while DNS is dead knows no address, and the NAT may have lost the source port."""
    bench = Bench(answers={}, alive=set())
    bench.run(90)
    rungs = [finding.arguments["rung"] for _, finding in bench.said(Why.TUNNEL_STEP)]
    assert rungs[:4] == ["resolve", "endpoint", "forget-flows", "new-port"]
    sets = {effect.endpoint for _, effect in bench.effects if isinstance(effect, SetEndpoint)}
    assert sets == {at(1)}


def on_detour(bench: Bench) -> str:
    return detours.courses(bench.memory).get("wg0", "")


def test_another_wan_is_tried_proven_and_left_again_when_the_usual_one_works() -> None:
    bench = Bench(ways=("wan", "wanb"), working=frozenset({"wan", "wanb"}), ladder=Ladder(return_after=60.0))
    bench.run(60)
    bench.working = frozenset({"wanb"})
    bench.run(40)
    assert on_detour(bench) == "wanb"
    assert bench.state == liveness.ALIVE
    assert bench.said(Why.TUNNEL_RECOVERED)[-1][1].arguments["rung"] == "other-wan"
    # The usual one is tried again after return_after, in vain; then the detour is the first remedy.
    bench.run(70)
    assert bench.said(Why.TUNNEL_DETOUR_ENDED)
    steps = [f.arguments["rung"] for _, f in bench.said(Why.TUNNEL_STEP)]
    assert steps[-1] == "other-wan"
    assert steps[-2:] != ["new-port", "other-wan"] or steps.count("new-port") == 1
    assert bench.state == liveness.ALIVE
    assert [f.arguments["seconds"] for _, f in bench.said(Why.TUNNEL_DETOUR)] == [60, 120]
    bench.working = frozenset({"wan"})
    bench.run(150)
    assert on_detour(bench) == ""
    assert bench.state == liveness.ALIVE


def test_each_other_wan_is_tried_once_and_none_is_kept_without_proof() -> None:
    bench = Bench(ways=("wan", "wanb", "wanc"), working=frozenset({"wan"}))
    bench.run(60)
    bench.working = frozenset()
    bench.run(80)
    said = [
        f.arguments["action"] for _, f in bench.said(Why.TUNNEL_STEP) if f.arguments["rung"] == "other-wan"
    ]
    assert said[:2] == ["go by wanb instead of wan", "go by wanc instead of wan"]
    while not bench.said(Why.TUNNEL_WAITING):
        bench.run(0.5)
    assert bench.memory.detours == {}


def test_a_detour_ends_with_its_reason() -> None:
    """The usual WAN is another one now, or the detour's is not usable."""
    for ways in (("wanc", "wan", "wanb"), ("wan",)):
        bench = Bench(ways=("wan", "wanb"), working=frozenset({"wanb"}))
        bench.run(100)
        assert on_detour(bench) == "wanb"
        bench.ways = ways
        bench.run(6)
        assert bench.memory.detours == {} or not bench.memory.detours["wg0"].wan


def test_a_detour_that_ends_while_it_is_tried_is_over_once() -> None:
    """Its WAN goes, or the usual one changes, before the step has waited for its proof."""
    for ways in (("wanc", "wan", "wanb"), ("wan",)):
        bench = Bench(ways=("wan", "wanb"), working=frozenset({"wan"}))
        bench.run(60)
        bench.working = frozenset()
        while on_detour(bench) != "wanb":
            bench.run(0.5)
        bench.ways = ways
        bench.run(60)
        assert bench.said(Why.TUNNEL_DETOUR_ENDED)
        failed = [finding.arguments["rung"] for _, finding in bench.said(Why.TUNNEL_STEP_FAILED)]
        assert "other-wan" in failed


def test_no_detour_where_it_is_not_wanted_or_not_ours() -> None:
    for bench in (
        Bench(ways=("wan", "wanb"), working=frozenset({"wanb"}), ladder=Ladder(other_wan=False)),
        Bench(ways=()),
    ):
        bench.run(30)
        bench.alive = set()
        bench.run(90)
        assert bench.memory.detours == {}
        assert any(r.what == "other-wan" for _, f in bench.said(Why.TUNNEL_WAITING) for r in f.rejected)


def test_a_death_beside_a_living_peer_says_nothing_of_the_way() -> None:
    """Two peers were saved by a detour; one of them dies for good: the other keeps its way."""
    bench = Bench(ways=("wan", "wanb"), working=frozenset({"wanb"}), ladder=Ladder(return_after=600.0))
    bench.run(100)
    assert on_detour(bench) == "wanb"
    bench.sibling = True
    bench.step(Configured(bench.settings))
    bench.run(10)
    bench.alive = set()
    bench.run(60)
    assert bench.state == liveness.DEAD
    assert on_detour(bench) == "wanb"
    rungs = [finding.arguments["rung"] for _, finding in bench.said(Why.TUNNEL_STEP)]
    assert rungs.count("other-wan") == 1
    # Nor is it the first remedy afterwards.
    bench.alive = {at(1)}
    bench.run(60)
    assert bench.state == liveness.ALIVE
    bench.ways = ("wan",)
    bench.run(10)
    bench.ways, bench.working = ("wan", "wanb"), frozenset({"wan", "wanb"})
    bench.run(30)
    count = len(bench.said(Why.TUNNEL_STEP))
    bench.alive = set()
    bench.run(30)
    assert bench.said(Why.TUNNEL_STEP)[count][1].arguments["rung"] == "resolve"

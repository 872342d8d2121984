"""Decides what is told and when: events for findings, state topics on change, a slow heartbeat.

Pure: `Reporter.step` gets the state before and after a step of the engine and returns publications. Values
that never rest (latency, bytes) are no change; they come with the next one or with the heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wgrouter.core import engine, links
from wgrouter.core.findings import Finding, Severity
from wgrouter.core.model import NEVER, Instant, Seconds
from wgrouter.core.settings import Mqtt
from wgrouter.mqtt import payloads
from wgrouter.mqtt.outbox import Gap
from wgrouter.mqtt.payloads import Data, Identity, Moment
from wgrouter.mqtt.topics import Publication, Topics, encoded

REVIEW: Seconds = 1.0  # a change without a finding (an endpoint, a byte counter's owner) is seen within this
SPACING: Seconds = 1.0  # between two values of one topic: a flapping peer must not fill a metered link
SEVERITIES = tuple(Severity)
TOLD = ("uplink.", "wan.", "tunnel.")  # areas whose latest event the summary repeats


class Reporter:
    """What a fleet was told. `step` after each step of the engine, `everything` on connecting."""

    def __init__(self, settings: Mqtt, topics: Topics, identity: Identity, seq: int = 0) -> None:
        self.settings, self.topics, self.identity = settings, topics, identity
        self.seq = seq
        self._shown: dict[str, object] = {}  # topic → the signature of what was last published there
        self._sent_at: dict[str, Instant] = {}
        self._reviewed_at: Instant = -NEVER
        self._beat_at: Instant = -NEVER
        self._last: Data | None = None
        self.online = False

    # ------------------------------------------------------------ events

    def step(
        self,
        before: engine.State,
        after: engine.State,
        said: Iterable[Finding],
        moment: Moment,
        counts: Mapping[str, int],
    ) -> list[Publication]:
        """What has to be told after a step. State topics only while a broker is there to take them."""
        found = [self.event(before, after, finding, moment) for finding in said if self.worth(finding)]
        due = moment.now - self._reviewed_at >= REVIEW
        if self.online and (found or due):
            found += self.values(after, moment, counts)
        return found

    def worth(self, finding: Finding) -> bool:
        return SEVERITIES.index(finding.why.severity) >= SEVERITIES.index(Severity(self.settings.severity))

    def event(
        self, before: engine.State, after: engine.State, finding: Finding, moment: Moment
    ) -> Publication:
        self.seq += 1
        data = payloads.event(self.identity, before, after, moment, self.seq, finding)
        if data["type"].startswith(TOLD):
            self._last = {key: data[key] for key in ("time", "type", "subject", "text")}
        return Publication(self.topics.event, encoded(data), 1, key=(self.identity.boot, self.seq))

    def gap(self, state: engine.State, moment: Moment, gap: Gap) -> Publication:
        """The message that stands for dropped events."""
        data = payloads.gap(self.identity, state, moment, gap.boot, gap.first, gap.last)
        return Publication(self.topics.event, encoded(data), 1, key=(gap.boot, gap.last))

    # ------------------------------------------------------------ state topics

    def everything(
        self, state: engine.State, moment: Moment, counts: Mapping[str, int], capabilities: Data
    ) -> list[Publication]:
        """All retained topics: a broker that was started anew may remember nothing."""
        self._shown.clear()
        self._sent_at.clear()
        self.online = True
        birth = payloads.birth(self.identity, state, moment, capabilities)
        return [
            Publication(self.topics.availability, b"online", 1, True),
            Publication(self.topics.birth, encoded(birth), 1, True),
            *self.values(state, moment, counts),
        ]

    def values(self, state: engine.State, moment: Moment, counts: Mapping[str, int]) -> list[Publication]:
        """The state topics that changed, and the heartbeat if it is due."""
        now = moment.now
        self._reviewed_at = now
        found: list[Publication] = []
        brief: list[object] = [
            tuple(payloads.active(state).items()),
            state.uplink.manual,
            state.uplink.switches,
            counts.get("queued", 0) > 0,  # that events waited is told again when they do not any more
        ]
        topics = {self.topics.state}
        paths: dict[str, list[object]] = {}
        for link in links.view(state.links):
            path = link.path
            signature = (path.family, payloads.path_state(link), path.device, path.gateway)
            paths.setdefault(path.wan, []).append(signature)
        chosen = [(f, choice.wan, choice.reason) for f, choice in state.uplink.choices.items()]
        for name, signatures in paths.items():
            topic = self.topics.wan(name)
            topics.add(topic)
            used = [choice for choice in chosen if choice[1] == name]
            if self._due(topic, (signatures, used), now):
                data = payloads.wan(self.identity, state, moment, name)
                found.append(Publication(topic, encoded(data), 0, True))
        brief.append(paths)
        for peer, care, why in payloads.causes(state, now):
            topic = self.topics.tunnel(peer.device, peer.label)
            topics.add(topic)
            seen = payloads.seen_of(state, peer)
            rung = care.step.rung if care.step else ""
            course = payloads.wan_of(state, peer.device)
            place = seen.endpoint if seen else None
            if self._due(topic, (care.pulse.state, why.why, rung, course, place), now):
                data = payloads.peer_payload(self.identity, state, moment, peer, care, why)
                found.append(Publication(topic, encoded(data), 0, True))
            brief.append((topic, care.pulse.state, why.why, course))
        found += self._gone(topics)
        beat = now >= self._beat_at + self.settings.heartbeat
        if self._due(self.topics.state, brief, now) or beat:
            self._beat_at = self._sent_at[self.topics.state] = now
            data = payloads.summary(self.identity, state, moment, {"seq": self.seq, **counts}, self._last)
            found.append(Publication(self.topics.state, encoded(data), 0, True))
        return found

    def _due(self, topic: str, signature: object, now: Instant) -> bool:
        """Whether a topic shows something else than before, and has not been written just now."""
        if self._shown.get(topic) == signature or now - self._sent_at.get(topic, -NEVER) < SPACING:
            return False
        self._shown[topic], self._sent_at[topic] = signature, now
        return True

    def _gone(self, topics: set[str]) -> list[Publication]:
        """Take away the values of what is configured no more: an empty payload does (MQTT 3.3.1.3)."""
        gone = [topic for topic in self._shown if topic not in topics]
        for topic in gone:
            del self._shown[topic]
        return [Publication(topic, b"", 0, True) for topic in gone]

"""Text for people: complete, within 80 columns, and harmless to a terminal, whatever the data."""

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgrouter import __version__, render, replaying
from wgrouter.render import Paper, amount, plain, span, wrap

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "uptime_s": 8040.2,
    "now_trusted": False,
    "root": "/tmp/r",
    "wans": [
        {
            "name": "wan",
            "device": "eth0.2",
            "family": 4,
            "state": "up",
            "since_s": 8000,
            "loss_percent": 0.0,
            "latency_ms": 12.34,
            "jitter_ms": 1.1,
            "share_percent": 100,
            "gateway": "192.0.2.1",
            "active": True,
            "why": "the lowest priority of those that are usable",
        },
        {"name": "lte", "device": "wwan0", "family": 6, "state": "down", "latency_ms": None, "active": False},
    ],
    "tunnels": [
        {
            "interface": "wg0",
            "listen_port": 51820,
            "fwmark": 0x1000000,
            "wan": "wan",
            "peers": [
                {
                    "peer": "office",
                    "public_key": "K" * 43 + "=",
                    "state": "alive",
                    "endpoint": "[2001:db8:1234:5678:9abc:def0:1234:5678]:51820",
                    "name": "vpn.example.net",
                    "addresses": ["2001:db8:1234:5678:9abc:def0:1234:5678", "203.0.113.5"],
                    "since_s": 7000,
                    "last_handshake_age_s": 34,
                    "rx_bytes": 1234567,
                    "tx_bytes": 99,
                    "rung": "",
                    "why": "bytes received 2 s ago",
                },
                {"peer": "a peer with a very long description indeed, longer than the line", "state": "dead"},
            ],
        },
        {"interface": "wg1", "peers": []},
    ],
    "names": [
        {
            "name": "vpn.example.net",
            "status": "resolved",
            "addresses": ["203.0.113.5"],
            "ttl_s": 60,
            "server": "::1",
        }
    ],
    "findings": [
        {"code": "tunnel.dead", "severity": "warning", "subject": "wg0/office", "text": "silent", "age_s": 70}
    ],
    "problems": [
        "one in words",
        {"file": "wgrouter", "line": 3, "message": "not a number", "accepted": "1 to 9"},
    ],
}

EXPLAINED: list[Any] = [
    {
        "subject": "wg0/home",
        "state": "dead",
        "cause": {"code": "tunnel.dead", "text": "nobody answers at 198.51.100.7:51820"},
        "evidence": ["last handshake 12m ago", "148 bytes sent, none received"],
        "tried": [{"age_s": 60, "what": "resolve home.example.org again", "result": "same addresses"}],
        "next": {"what": "new source port", "in_s": 12.4},
        "rejected": [
            {"what": "other WAN", "reason": "lte has lost 31 % of its probes over the last 30 seconds"}
        ],
    },
    {"subject": "wg0/office", "state": "alive", "cause": None, "next": None},
]
SAID = {"code": "wan.down", "severity": "warning", "subject": "wan", "text": "3 probes lost"}
ENTRIES: list[Any] = [
    {"number": 1, "at": 5.25, "wall": None, "event": "Woke", "effects": [], "findings": [SAID]},
    {
        "number": 2,
        "at": 5.5,
        "wall": 1.8e9,
        "event": "Observed net",
        "effects": ["AddRoute x"],
        "findings": [],
    },
]


def drawn(draw: Any, data: Any, width: int = 80, colour: bool = False) -> str:
    paper = Paper(width, colour)
    draw(data, paper)
    return "\n".join(paper.lines)


# ---- status -----------------------------------------------------------------------------------------------


def test_the_broker_is_said_in_a_line() -> None:
    broker = {"broker": "mqtts://b.example.net:8883", "state": "waiting", "since_s": 61, "queued": 3}
    page = drawn(render.status, {**STATUS, "mqtt": {**broker, "reason": "nobody listens on port 8883"}})
    assert (
        "mqtts://b.example.net:8883: waiting for 1m1s; nobody listens on port 8883; 3 events wait"
        in " ".join(page.partition("MQTT")[2].split())
    )
    assert "MQTT" not in drawn(render.status, {**STATUS, "mqtt": None})


def test_a_status_is_a_page_that_can_be_read() -> None:
    assert (
        drawn(render.status, STATUS)
        == """\
wgrouter 0.1.0, up 2h14m, root /tmp/r
The clock is not set: peers drop handshakes from the past.

WANs
   NAME  DEVICE        STATE  SINCE  LOSS  LATENCY  JITTER  SHARE
*  wan   eth0.2  IPv4  up     2h13m   0 %  12.3 ms  1.1 ms  100 %
    via 192.0.2.1; the lowest priority of those that are usable
   lte   wwan0   IPv6  down   -         -        -       -      -

Tunnel wg0 (port 51820, by wan, mark 0x1000000)
  PEER                                   STATE  SINCE  HANDSHAKE  RECEIVED  SENT
  office                                 alive  1h56m        34s   1.2 MiB  99 B
    at [2001:db8:1234:5678:9abc:def0:1234:5678]:51820; vpn.example.net is
    2001:db8:1234:5678:9abc:def0:1234:5678, 203.0.113.5; bytes received 2 s ago
  a peer with a very long description …  dead   -              -         -     -
    no endpoint

Tunnel wg1
  no peers

Names
  NAME             STATUS    TTL  NEXT IN  SERVER
  vpn.example.net  resolved   1m        -  ::1
    203.0.113.5

Said of late
  1m10s ago  wg0/office: silent [tunnel.dead]

Configuration problems
  - one in words
  error    wgrouter:3
           not a number
           accepted: 1 to 9"""
    )


def test_an_agent_that_has_nothing_says_so_in_a_line() -> None:
    assert drawn(render.status, {"version": "1", "uptime_s": 1, "root": "/"}) == "wgrouter 1, up 1s"


def test_colours_add_nothing_but_colours() -> None:
    coloured = drawn(render.status, STATUS, colour=True)
    assert "\033[32malive\033[0m" in coloured
    assert "\033[31mdead" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == drawn(render.status, STATUS)


def test_no_key_is_shown() -> None:
    assert "KKKK" not in drawn(render.status, STATUS)


# ---- any data at all ---------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100)
LONG = st.sampled_from(["x" * 200, "many words " * 30, "\033[2J", "a\nb", 10**400, -(10**400), 1e308])
ANYTHING = (
    SCALARS | LONG | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3)
)

Path = tuple[Any, ...]


def paths(data: Any, here: Path = ()) -> list[Path]:
    """Where there is something in the data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [here, *(path for key, value in items for path in paths(value, (*here, key)))]


def changed(data: Any, changes: list[tuple[Path, Any]]) -> Any:
    """The data with other values in these places, where they still exist."""
    data = copy.deepcopy(data)
    for path, value in changes:
        place = data
        try:
            for key in path[:-1]:
                place = place[key]
            if path:
                place[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    return data


def damaged(data: Any) -> st.SearchStrategy[Any]:
    places = st.sampled_from([path for path in paths(data) if path])
    return st.builds(changed, st.just(data), st.lists(st.tuples(places, ANYTHING), min_size=1, max_size=6))


def harmless(text: str, width: int) -> None:
    for line in text.split("\n"):
        assert len(line) <= width
        assert line.isprintable()
        assert line == line.rstrip()


@given(damaged(STATUS), st.sampled_from([40, 80, 120]))
def test_any_status_fits_and_is_harmless(data: dict[str, Any], width: int) -> None:
    harmless(drawn(render.status, data, width), width)


@given(damaged(EXPLAINED))
def test_any_explanation_fits_and_is_harmless(data: list[Any]) -> None:
    harmless(drawn(render.explain, data), 80)


@given(damaged({"effects": ["AddRoute x", "AddRule y"], "findings": STATUS["findings"], "problems": ["one"]}))
def test_any_plan_fits_and_is_harmless(data: dict[str, Any]) -> None:
    harmless(drawn(render.plan, data), 80)


@given(damaged(ENTRIES))
def test_any_journal_fits_and_is_harmless(data: list[Any]) -> None:
    harmless(drawn(lambda items, paper: render.entries(items, paper, lambda wall: "12:00:00"), data), 80)


@given(ANYTHING)
def test_anything_fits_and_is_harmless(data: Any) -> None:
    harmless(drawn(render.anything, data), 80)


# ---- the rest ----------------------------------------------------------------------------------------------


def test_an_explanation_has_cause_evidence_what_was_tried_and_what_comes_next() -> None:
    assert (
        drawn(render.explain, EXPLAINED)
        == """\
wg0/home: dead
  Cause     nobody answers at 198.51.100.7:51820 [tunnel.dead]
  Evidence  last handshake 12m ago
            148 bytes sent, none received
  Tried     1m ago: resolve home.example.org again → same addresses
  Next      new source port, in 12s
  Rejected  other WAN: lte has lost 31 % of its probes over the last 30 seconds

wg0/office: alive"""
    )


def test_a_plan_is_numbered_and_an_empty_one_says_so() -> None:
    assert drawn(render.plan, {"effects": []}) == "Nothing to do: everything is as it should be."
    assert drawn(render.plan, {"effects": ["AddRoute x", "AddRule y"]}) == (
        "2 things to do, in this order:\n   1. AddRoute x\n   2. AddRule y"
    )


def test_a_journal_shows_what_was_said_and_done_and_with_all_what_came() -> None:
    def draw(every: bool) -> str:
        return drawn(
            lambda data, paper: render.entries(data, paper, lambda wall: "01-15 08:00:00", every), ENTRIES
        )

    assert draw(False) == (
        "      5.250s boot  wan: 3 probes lost [wan.down]\n"
        "01-15 08:00:00  Observed net\n"
        "                → AddRoute x"
    )
    assert draw(True).split("\n")[1].strip() == "Woke"


def test_a_replay_that_decides_the_same_is_one_line() -> None:
    told = {"steps": 40, "differences": [], "cut": False, "recorded_by": __version__}
    assert drawn(replaying.draw, told) == "40 steps replayed: every decision the same."
    one = {
        "step": 7,
        "at": 1.5,
        "event": "Woke",
        "part": "effects",
        "recorded": "Look",
        "replayed": "nothing",
    }
    text = drawn(replaying.draw, {**told, "differences": [one], "cut": True, "recorded_by": "0.0"})
    assert "step 7 at 1.500s: effects" in text
    assert "The last line is broken off" in text
    assert f"Recorded by 0.0, replayed by {__version__}." in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (60, "1m"),
        (61, "1m1s"),
        (600, "10m"),
        (659, "10m"),
        (59.9, "1m"),
        (3600, "1h"),
        (8040, "2h14m"),
        (86400 * 3 + 4 * 3600, "3d4h"),
        (-5, "-5s"),
        (float("inf"), "never"),
        (float("nan"), "-"),
        (None, "-"),
        ("soon", "-"),
        (True, "-"),
    ],
)
def test_spans(seconds: Any, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1234567, "1.2 MiB"),
        (200 << 20, "200 MiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


@given(st.text(), st.integers(1, 100))
def test_wrapping_loses_nothing_but_space(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(len(line) <= width for line in lines)


@given(st.text())
def test_plain_text_cannot_move_a_cursor(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)

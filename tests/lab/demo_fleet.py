"""`make demo SCENARIO=fleet`: three routers in trouble, each in its own way, and what their operator sees.

The screens are those of the real `wgrouter fleet watch` in a terminal beside the broker.
"""

from __future__ import annotations

from tests.fleet.machine import Terminal
from tests.lab import build, fleet, headquarters, now
from tests.lab.headquarters import Operator

ROUTERS = ("router", "router2", "router3")
WITHIN = 90.0  # seconds for each thing to show
COLUMNS, LINES = 132, 30


def run() -> int:
    """A failover, a lost way to the broker and a lost site, told apart; then all is well again. 0 if so."""
    print(
        "Building the lab: three routers with two ISPs each, headquarters where their tunnels end, a broker "
        "with TLS …",
        flush=True,
    )
    with build(fleet(3, broker=True), wait=True) as lab:
        headquarters.start(lab)
        operator = Operator(lab)
        operator.until_well(*ROUTERS, headquarters.ID)
        options = (*operator.options, "--sort", "status")
        with Terminal("watch", *options, columns=COLUMNS, lines=LINES, prefix=operator.enter) as screen:
            screen.shows("4 routers   4 online", within=WITHIN)
            begun = now()
            _tell(begun, "all is well")
            _show(screen)
            _tell(begun, "the carrier of router's first uplink is cut")
            cut = now()
            lab.cut_carrier("a")
            screen.shows("1 failed over", "lte ← fibre", within=WITHIN)
            _tell(begun, f"the operator sees it {now() - cut:.1f} s after the cut")
            _show(screen)
            _tell(begun, "router2's ISPs drop what goes to the broker; router3's ISPs drop everything")
            headquarters.part_from_broker(lab, "router2")
            headquarters.cut_off(lab, "router3")
            screen.shows("1 site lost", "1 broker path lost", "1 failed over", within=WITHIN)
            _tell(begun, "after the last wills, headquarters' tunnels tell the two apart")
            _show(screen)
            screen.press("/router !router2 !router3\r")
            screen.shows("1 of 4 routers", within=WITHIN)
            screen.press("\r")
            screen.shows("EVENTS", "uplink.failover", within=WITHIN)
            _tell(begun, "one router with its time line (Enter)")
            _show(screen)
            screen.press("\x1b")
            screen.shows("filter:", within=WITHIN)
            screen.press("\x1b")
            _tell(begun, "wgrouter fleet send router explain")
            print(_framed(operator.run("send", "router", "explain")[1].rstrip()))
            lab.restore_carrier("a")
            headquarters.let_to_broker(lab, "router2")
            headquarters.rejoin(lab, "router3")
            _tell(begun, "everything is mended")
            screen.shows("4 routers   4 online", within=WITHIN)
            _tell(begun, "and the operator sees that too")
            _show(screen)
            screen.press("q")
            return screen.wait()


def _tell(begin: float, text: str) -> None:
    print(f"\n{now() - begin:7.1f} s  {text}", flush=True)


def _show(screen: Terminal) -> None:
    lines = screen.text.splitlines()
    while len(lines) > 2 and not lines[-2]:
        del lines[-2]  # the room between the table and the last line
    print(_framed("\n".join(lines)), flush=True)


def _framed(text: str) -> str:
    return "\n".join(f"    │ {line}" for line in text.splitlines())

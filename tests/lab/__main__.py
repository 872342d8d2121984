"""A lab to play in: `python -m tests.lab [single|dual|triple|fleet] [--sites N] [--broker]`.

The agent runs on the (first) router; every verb of the lab is a command of the prompt. All of it ends with
the prompt. `python -m tests.lab clean` removes the labs of processes that were killed.
"""

import argparse
import cmd
import inspect
import os
import shlex
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from . import __doc__ as drawing
from . import netns
from .lab import Lab, build
from .netns import LabError
from .poll import NotInTime
from .topology import Topology, dual, fleet, single, sites, triple
from .traffic import Flow

TOPOLOGIES: dict[str, Callable[..., Topology]] = {
    "single": single,
    "dual": dual,
    "triple": triple,
    "fleet": fleet,
}


def verbs(lab: Lab) -> dict[str, Callable[..., object]]:
    """The verbs of a lab by name, in the order of the source."""
    return {
        name: getattr(lab, name) for name, member in vars(Lab).items() if getattr(member, "is_verb", False)
    }


def usage(name: str, method: Callable[..., object]) -> str:
    """`blackhole ISP [gateway=True]`."""
    words = [name]
    for parameter in inspect.signature(method).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            words.append(f"{parameter.name.upper()}…")
        elif parameter.default is parameter.empty:
            words.append(parameter.name.upper())
        else:
            words.append(f"[{parameter.name}={parameter.default}]")
    return " ".join(words)


def _typed(text: str, wanted: object) -> object:
    """A word of the command line as the parameter's type asks."""
    if wanted is bool:
        return text.lower() in ("1", "true", "yes", "on")
    kinds = typing.get_args(wanted) or (wanted,)
    for kind in (int, float):
        if kind in kinds:
            return kind(text)
    return text


def call(method: Callable[..., object], words: list[str]) -> object:
    """Call a verb with words: by place, or as name=value."""
    signature = inspect.signature(method)
    positional: list[object] = []
    named: dict[str, object] = {}
    places = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in signature.parameters:
            named[name] = _typed(value, signature.parameters[name].annotation)
        else:
            place = places[min(len(positional), len(places) - 1)] if places else None
            positional.append(_typed(word, place.annotation) if place else word)
    signature.bind(*positional, **named)
    return method(*positional, **named)


class Prompt(cmd.Cmd):
    """The lab's command line."""

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self.lab = lab
        self.flows: dict[str, Flow] = {}
        self.verbs = verbs(lab)
        self.intro = (
            "`help` lists the verbs; `sh` is a shell on the router; the lab ends with `quit` or Ctrl-D."
        )

    # The agent may end at any time: its fate is part of the prompt.
    @property
    def prompt(self) -> str:  # type: ignore[override]
        agent = self.lab.router.agent
        if not sys.stdin.isatty():
            return ""
        return "lab> " if agent is None or agent.running else f"lab (agent: exit {agent.exit_status})> "

    def emptyline(self) -> bool:
        return False

    def onecmd(self, line: str) -> bool:
        """Run one line. What the user did wrong is said, and nothing ends."""
        try:
            return bool(super().onecmd(line))
        except (
            LabError,
            NotInTime,
            TypeError,
            ValueError,
            KeyError,
            OSError,
            subprocess.SubprocessError,
        ) as error:
            print(f"{type(error).__name__}: {error}")
        except KeyboardInterrupt:
            print()
        return False

    def default(self, line: str) -> bool:  # type: ignore[override]
        """A verb."""
        if line in ("EOF", "quit", "exit"):
            return True
        name, *words = shlex.split(line)
        if name not in self.verbs:
            print(f"{name!r} is no verb; `help` lists them")
            return False
        result = call(self.verbs[name], words)
        if result is not None:
            print(result)
        return False

    def completenames(self, text: str, *_: object) -> list[str]:
        names = [*self.verbs, *(n[3:] for n in self.get_names() if n.startswith("do_")), "quit"]
        return sorted(name for name in names if name.startswith(text))

    def completedefault(self, text: str, *_: object) -> list[str]:
        plan = self.lab.topology
        words = [isp.name for isp in plan.isps] + [site.name for site in plan.sites] + list(self.lab.boxes)
        return sorted(word for word in set(words) if word.startswith(text))

    def do_help(self, arg: str) -> None:
        """help [VERB]: this list."""
        for name, method in self.verbs.items():
            if arg in ("", name):
                print(f"  {usage(name, method)}\n      {' '.join((inspect.getdoc(method) or '').split())}")
        for name in (n for n in self.get_names() if n.startswith("do_") and n != "do_help"):
            if arg in ("", name[3:]):
                print(f"  {getattr(self, name).__doc__}")

    def do_where(self, _: str) -> None:
        """where: addresses and namespaces."""
        print(describe(self.lab))

    def do_sh(self, arg: str) -> None:
        """sh [BOX [COMMAND…]]: a shell on the router, or in another box; or one command there."""
        words = shlex.split(arg)
        box = self.lab.boxes[words.pop(0)] if words and words[0] in self.lab.boxes else self.lab.router.box
        box.shell(*(words or [os.environ.get("SHELL", "sh")]))

    def do_agent(self, arg: str) -> None:
        """agent [start|stop|kill9|restart|log]: the process."""
        agent = self.lab.router.agent
        if agent is None:
            print("there is none; it was left out with --no-agent")
        elif arg in ("start", "stop", "kill9", "restart"):
            getattr(agent, arg)()
        else:
            print(agent.tail())

    def do_wgrouter(self, arg: str) -> None:
        """wgrouter COMMAND…: the agent's command line, e.g. `wgrouter explain`."""
        if self.lab.router.agent is not None:
            print(self.lab.router.agent.cli(*shlex.split(arg), check=False))

    def do_report(self, _: str) -> None:
        """report: tunnels, rules, routes and the agent's last words."""
        print(self.lab.report())

    def do_ping(self, arg: str) -> None:
        """ping SOURCE TO: one echo, e.g. `ping client web`, `ping router site1`."""
        print("answered" if self.lab.pings(*shlex.split(arg)) else "no answer")

    def do_query(self, arg: str) -> None:
        """query NAME [TYPE]: ask the DNS server, from the router."""
        print(self.lab.query(*shlex.split(arg)))

    def do_flow(self, arg: str) -> None:
        """flow [SOURCE TO]: start a 100 Hz flow; without arguments, say how all of them fare."""
        if arg:
            self.flows[arg] = self.lab.flow(*shlex.split(arg))
        for name, flow in self.flows.items():
            state = "flows" if flow.flowing() else "SILENT"
            print(f"  {name}: {state}, {flow.lost} lost of {flow.sent}, longest outage {flow.outage():.3f} s")


def describe(lab: Lab) -> str:
    """Who is where, with the commands to get there by hand."""
    lines = [f"lab {lab.name}, WireGuard: {lab.wireguard}, files: {lab.directory}", ""]
    for isp in lab.topology.isps:
        lines.append(
            f"  ISP {isp.name}: {isp.router} {isp.device} ({isp.interface}) {isp.router4} {isp.router6}, "
            f"seen as {isp.public4 if isp.nat else isp.router4}, resolver {isp.resolvers[0]}"
        )
    for site in lab.topology.sites:
        where = (
            ", ".join(lab.sites[site.name].addresses) if site.name in lab.sites else "nobody behind the name"
        )
        lines.append(f"  {site.host}:{site.port} at {where}; in the tunnel {site.tunnel4}, {site.tunnel6}")
    lines += ["", f"  from another terminal: nsenter --target={lab.router.box.pid} --net --mount"]
    return "\n".join(lines)


def main() -> int:
    try:
        os.fstat(0)
    except OSError:
        # Started without a standard input: what is opened next must not become it.
        os.open(os.devnull, os.O_RDONLY)
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description="A network to break, and wgrouter in it."
    )
    parser.add_argument("topology", nargs="?", default="dual", choices=[*TOPOLOGIES, "clean"])
    parser.add_argument("--sites", type=int, default=2, metavar="N", help="far sites with a tunnel (2)")
    parser.add_argument("--broker", action="store_true", help="an MQTT broker too")
    parser.add_argument("--config", type=Path, help="text for /etc/config/wgrouter (default: empty)")
    parser.add_argument("--no-agent", action="store_true", help="nobody but the kernel and netifd's settings")
    arguments = parser.parse_args()
    if arguments.topology == "clean":
        removed = netns.sweep()
        print(f"removed: {', '.join(removed) or 'nothing was left'}")
        return 0
    make = TOPOLOGIES[arguments.topology]
    with build(make(far=sites(arguments.sites), broker=arguments.broker)) as lab:
        print((drawing or "").split("\n\n")[1], end="\n\n")
        print(describe(lab), end="\n\n")
        if not arguments.no_agent:
            agent = lab.router.start_agent(arguments.config.read_text() if arguments.config else "")
            print(f"the agent runs, pid {agent.pid}, log {agent.log}")
        prompt = Prompt(lab)
        if sys.stdin is not None:
            prompt.cmdloop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

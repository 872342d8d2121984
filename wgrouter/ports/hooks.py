"""Hotplug out: runs the user's scripts in /etc/hotplug.d/<directory> when the agent has news.

Touches child processes and those directories. Decides which news is still worth telling, never what is news.

- One shell at a time walks through one directory, as procd's hotplug-call does: the scripts are sourced, each
  in a subshell, in the order of their names, and need no x bit. Nobody waits for it but the loop, by a pidfd.
- News waits in a queue with one place for each subject and kind: if a WAN fails over and back while a slow
  script runs, only the last is told, as netifd does it for an interface. QUEUE places, the oldest gives way.
- A shell that takes longer than LIMIT gets SIGTERM with all its children, and SIGKILL GRACE later.
- The environment is our own, not the agent's. What a script prints goes where the agent's output goes.
- Status 1 is no failure: `[ "$ACTION" = failover ] && …` is how most such scripts end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Protocol

from wgrouter.core.findings import Finding, Why
from wgrouter.core.messages import RunHook
from wgrouter.core.model import Instant, Seconds

LIMIT: Seconds = 30.0
GRACE: Seconds = 3.0
QUEUE = 64
VALUE_MAX = 1024  # characters of one variable
WATCH: Seconds = 0.1  # between looks at a child where the kernel has no pidfd (before 5.3)

# Which news replaces which: only the last of a kind, for one subject, is worth telling.
KINDS: Mapping[str, str] = {
    "failover": "uplink",
    "failback": "uplink",
    "tunnel-up": "tunnel",
    "tunnel-down": "tunnel",
    "endpoint": "endpoint",
    "connected": "tracking",
    "disconnected": "tracking",
}
# What tells two matters of a kind apart; of uplinks only the last: one WAN carries all traffic of a family.
SUBJECT = ("INTERFACE", "TUNNEL", "PEER", "FAMILY")

# $1 is the directory; the status is the number of scripts that failed. functions.sh: as hotplug-call does.
WALK = """\
[ -f /lib/functions.sh ] && . /lib/functions.sh
failed=0
for script in "$1"/*; do
    [ -f "$script" ] || continue
    ( . "$script" )
    status=$?
    [ "$status" -gt 1 ] && { echo "$script: status $status" >&2; failed=$((failed + 1)); }
done
exit "$failed"
"""


class Cancel(Protocol):
    """What `Loop.call_at` gives back."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """The part of the reactor that the hooks use."""

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def now(self) -> Instant: ...

    def call_at(self, when: Instant, callback: Callable[[], None]) -> Cancel: ...


class Hooks:
    """`run` never waits and never fails. What goes wrong with a script is said by `say`."""

    def __init__(
        self,
        loop: Loop,
        say: Callable[[Finding], None],
        *,
        root: str = "/",
        limit: Seconds = LIMIT,
        shell: str = "/bin/sh",
    ) -> None:
        self._loop = loop
        self._say = say
        self._base = os.path.join(root, "etc/hotplug.d")
        self._limit = limit
        self._shell = shell
        self._queue: dict[tuple[str, ...], RunHook] = {}  # in the order of arrival
        self._child: _Child | None = None

    @property
    def waiting(self) -> int:
        """News that no script was told yet."""
        return len(self._queue)

    def run(self, hook: RunHook) -> None:
        """Tell the scripts when their turn has come. An older word on the same matter is dropped."""
        if not self._has_scripts(hook.directory):
            return
        self._queue.pop(key := _key(hook), None)
        self._queue[key] = hook
        if len(self._queue) > QUEUE:
            oldest = self._queue.pop(next(iter(self._queue)))
            reason = f"{QUEUE} others wait for {self._child.name if self._child else 'the scripts'}"
            self._say(
                Finding(Why.HOOK_DROPPED, _subject(oldest), {"action": _action(oldest), "reason": reason})
            )
        self._next()

    def close(self) -> None:
        """Forget what waits, and end what runs."""
        self._queue.clear()
        if self._child is not None:
            child, self._child = self._child, None
            child.signal(signal.SIGKILL)
            child.forget()
            child.status(wait=True)

    def _has_scripts(self, directory: str) -> bool:
        """Most routers have none: then nothing is started. A name with a slash is no directory of ours."""
        try:
            with os.scandir(os.path.join(self._base, os.path.basename(directory))) as entries:
                return any(entry.is_file() for entry in entries)
        except OSError:
            return False

    def _next(self) -> None:
        if self._child is not None or not self._queue:
            return
        hook = self._queue.pop(next(iter(self._queue)))
        directory = os.path.join(self._base, os.path.basename(hook.directory))
        try:
            pid = os.posix_spawn(
                self._shell,
                [self._shell, "-c", WALK, "sh", directory],
                _environment(hook),
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
                setsid=True,  # a session of its own: one signal reaches all that a script starts
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
            )
        except OSError as error:
            self._failed(hook, f"{self._shell}: {error.strerror}")
            self._next()
            return
        self._child = _Child(self._loop, pid, hook, self._limit, self._ended)

    def _ended(self, child: _Child) -> None:
        self._child = None
        if child.overdue:
            child.signal(
                signal.SIGKILL
            )  # who is left of its session; before the wait, which frees its number
        status = os.waitstatus_to_exitcode(child.status(wait=True))
        child.forget()
        if child.overdue:
            self._failed(child.hook, f"ended after {self._limit:g} s")
        elif status:
            self._failed(child.hook, f"{status} failed" if status > 0 else f"ended by signal {-status}")
        self._next()

    def _failed(self, hook: RunHook, reason: str) -> None:
        arguments = {
            "script": f"scripts in hotplug.d/{hook.directory}",
            "action": _action(hook),
            "reason": reason,
        }
        self._say(Finding(Why.HOOK_FAILED, _subject(hook), arguments))


class _Child:
    """A shell on its walk, in a session of its own."""

    def __init__(
        self, loop: Loop, pid: int, hook: RunHook, limit: Seconds, ended: Callable[[_Child], None]
    ) -> None:
        self.hook = hook
        self.overdue = False
        self.name = f"{_action(hook)} {_subject(hook)}".strip()
        self._loop = loop
        self._pid = pid
        self._ended = ended
        self._status: int | None = None
        self._alarm = loop.call_at(loop.now() + limit, self._too_long)
        self._look: Cancel | None = None
        try:
            self._fd = os.pidfd_open(pid)
        except (OSError, AttributeError):
            self._fd = -1
            self._look = loop.call_at(loop.now() + WATCH, self._looked)
        else:
            loop.watch(self._fd, self._over)

    def signal(self, number: int) -> None:
        """To the whole session. Only before the wait: the number may be another's after it."""
        try:
            os.killpg(self._pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def status(self, *, wait: bool) -> int:
        """As waitpid has it; -1 while it runs, without `wait`. Somebody else's waitpid makes it 0."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
            except ChildProcessError:
                pid, status = self._pid, 0
            if pid:
                self._status = status
        return -1 if self._status is None else self._status

    def forget(self) -> None:
        """Give descriptor and timers back."""
        self._alarm.cancel()
        if self._look is not None:
            self._look.cancel()
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _over(self) -> None:
        self._ended(self)

    def _looked(self) -> None:
        if self.status(wait=False) == -1:
            self._look = self._loop.call_at(self._loop.now() + WATCH, self._looked)
        else:
            self._ended(self)

    def _too_long(self) -> None:
        self.signal(signal.SIGKILL if self.overdue else signal.SIGTERM)
        self.overdue = True
        self._alarm = self._loop.call_at(self._loop.now() + GRACE, self._too_long)


def _key(hook: RunHook) -> tuple[str, ...]:
    kind = KINDS.get(_action(hook), _action(hook))
    names = SUBJECT[-1:] if kind == "uplink" else SUBJECT
    return (hook.directory, kind, *(hook.environment.get(name, "") for name in names))


def _action(hook: RunHook) -> str:
    return hook.environment.get("ACTION", "")


def _subject(hook: RunHook) -> str:
    tunnel, peer = hook.environment.get("TUNNEL", ""), hook.environment.get("PEER", "")
    return f"{tunnel}/{peer}".strip("/") or hook.environment.get("INTERFACE", "")


def _environment(hook: RunHook) -> dict[bytes, bytes]:
    """What hotplug-call gives its scripts, and ours. Values may come from outside: cut, and without NUL."""
    given = {name: value.replace("\0", "")[:VALUE_MAX] for name, value in hook.environment.items()}
    given |= {
        "HOTPLUG_TYPE": hook.directory,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "USER": "root",
        "LOGNAME": "root",
    }
    return {
        name.encode(): value.encode("utf-8", "replace")
        for name, value in given.items()
        if name.isidentifier()
    }

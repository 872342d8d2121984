"""`table inet wgrouter`: applied as a whole, read back, taken away. Every other table is left alone.

Touches nftables by the `nft` program, a child with a time limit. The ruleset is a text made by
core/balance.py, and is one transaction: no packet meets half of it, and if the kernel refuses it, the old
one stays in force. So nothing is checked with `nft -c` before it is applied: that is the same transaction,
not committed, for a second fork. Measured: to apply 5 ms, to read 3 ms.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from wgrouter.core.balance import TABLE, digest

TIMEOUT_S: Final = 5.0  # a hundred times what a router needs
REMOVE: Final = f"table {TABLE}\ndelete table {TABLE}\n"  # naming it makes it, so deleting it cannot fail
UNKNOWN: Final = "?"  # the digest of a table that is not of our making

# Statements at the top level that name a table, and those that name none because they mean all.
_NAMED: Final = re.compile(
    r"^[ \t]*(?:(?:add|create|delete|destroy|list|flush|reset|insert|replace|rename)[ \t]+)?"
    r"(?:table|chain|rule|set|map|element|flowtable|counter|quota|limit|secmark|synproxy|ct[ \t]+\w+)"
    r"[ \t]+(ip6?|inet|arp|bridge|netdev)[ \t]+(\w+)",
    re.MULTILINE,
)
_ALL: Final = re.compile(r"^[ \t]*(?:flush|reset|list)[ \t]+ruleset\b|^[ \t]*include\b", re.MULTILINE)


class Nft:
    """OSError from every method, with the complaint of `nft`; ENOENT without the program."""

    def apply(self, ruleset: str) -> None:
        """Carry out a ruleset. EINVAL if the kernel refuses it, or if it names anything but our table."""
        self._run("-f", "-", given=_guarded(ruleset))

    def check(self, ruleset: str) -> None:
        """Would `apply` work? Nothing is changed."""
        self._run("-c", "-f", "-", given=_guarded(ruleset))

    def remove(self) -> None:
        """Take the table away; its absence is no error."""
        self._run("-f", "-", given=REMOVE)

    def read(self) -> str:
        """The table as `nft list` shows it, without the elements of sets; "" if there is none."""
        try:
            return self._run("-t", "list", "table", *TABLE.split())
        except FileNotFoundError as error:
            if error.filename == TABLE:
                return ""
            raise

    def digest(self) -> str:
        """Which ruleset is in force (balance.digest): "" without a table, "?" for one not of our making."""
        listed = self.read()
        return (digest(listed) or UNKNOWN) if listed else ""

    def _run(self, *arguments: str, given: str = "") -> str:
        import subprocess  # half a MiB, for those who balance

        command = ["nft", *arguments]
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, "the program nft is not installed (package nftables)") from error
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(errno.ETIMEDOUT, f"nft took longer than {TIMEOUT_S:g} s") from error
        if done.returncode:
            complaint = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
            if "list" in arguments and "No such file or directory" in complaint:
                raise OSError(errno.ENOENT, f"nft: {complaint}", TABLE)
            raise OSError(errno.EINVAL, f"nft: {complaint[:400]}")
        return done.stdout


def _guarded(ruleset: str) -> str:
    """The ruleset, if it names no other table than ours: a second lock beside the core's."""
    foreign = [named for named in map(" ".join, _NAMED.findall(ruleset)) if named != TABLE]
    if foreign or _ALL.search(ruleset):
        what = f"table {foreign[0]}" if foreign else "all tables"
        raise OSError(errno.EINVAL, f"the ruleset names {what}; accepted: table {TABLE} alone")
    return ruleset

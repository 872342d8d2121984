"""`table inet wgrouter`: applied as a whole, read back, taken away. Every other table is left alone.

Touches nftables by the `nft` program, a child with a time limit. The ruleset is a text made by the core;
this port adds what makes it a replacement: the old table goes and the new one comes in one transaction, so
no packet meets half of it, and a ruleset that the kernel refuses leaves the old one in force. That is why
nothing is checked with `nft -c` first: it would be the same transaction, not committed, for a second fork.
"""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from typing import Final

from wgrouter.core.balance import digest

FAMILY_AND_NAME: Final = "inet wgrouter"
TABLE: Final = f"table {FAMILY_AND_NAME}"
TIMEOUT_S: Final = 5.0  # here 5 ms; on a router that is busy swapping the sky is the limit
REMOVE: Final = f"{TABLE}\ndelete {TABLE}\n"  # naming it makes it, so that deleting it cannot fail

_OPENING: Final = re.compile(rf"^[ \t]*(?:add[ \t]+)?{TABLE}[ \t]*\{{", re.MULTILINE)
_COMMENT: Final = re.compile(rf'^{TABLE} \{{[^\n]*\n\s*comment "([^"]*)"', re.MULTILINE)
# Statements at the top level that name a table, and those that name none because they mean all.
_NAMED: Final = re.compile(
    r"^[ \t]*(?:(?:add|create|delete|destroy|list|flush|reset|insert|replace|rename)[ \t]+)?"
    r"(?:table|chain|rule|set|map|element|flowtable|counter|quota|limit|secmark|synproxy|ct[ \t]+\w+)"
    r"[ \t]+(ip6?|inet|arp|bridge|netdev)[ \t]+(\w+)",
    re.MULTILINE,
)
_ALL: Final = re.compile(r"^[ \t]*(?:flush|reset|list)[ \t]+ruleset|^[ \t]*include\b", re.MULTILINE)


class Nft:
    """OSError from every method, with the complaint of `nft`; ENOENT without the program."""

    def apply(self, ruleset: str) -> None:
        """Make this the table's contents. Its comment is the ruleset's digest, which `digest` tells."""
        self._run("-f", "-", given=replacement(ruleset))

    def check(self, ruleset: str) -> None:
        """Would `apply` work? Nothing is changed."""
        self._run("-c", "-f", "-", given=replacement(ruleset))

    def remove(self) -> None:
        """Take the table away; its absence is no error."""
        self._run("-f", "-", given=REMOVE)

    def read(self) -> str:
        """The table as `nft list` shows it, without the elements of sets; "" if there is none."""
        try:
            return self._run("-t", "list", "table", *FAMILY_AND_NAME.split())
        except OSError as error:
            if error.errno == errno.ENODATA:
                return ""
            raise

    def digest(self) -> str:
        """The digest of the ruleset in force; "" if there is no table, "?" if it is not one of ours."""
        return digest_of(self.read())

    def _run(self, *arguments: str, given: str = "") -> str:
        program = shutil.which("nft")
        if program is None:
            raise OSError(errno.ENOENT, "the program nft is not installed (package nftables)")
        try:
            done = subprocess.run(
                [program, *arguments],
                input=given,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(errno.ETIMEDOUT, f"nft took longer than {TIMEOUT_S:g} s") from error
        if done.returncode:
            complaint = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
            listing = arguments[-2:] == tuple(FAMILY_AND_NAME.split())
            absent = listing and "No such file or directory" in complaint
            raise OSError(errno.ENODATA if absent else errno.EINVAL, f"nft: {complaint[:400]}")
        return done.stdout


def replacement(ruleset: str) -> str:
    """One transaction: the old table goes, the new one comes. EINVAL if it would touch anything else."""
    foreign = [" ".join(named) for named in _NAMED.findall(ruleset) if " ".join(named) != FAMILY_AND_NAME]
    if foreign or _ALL.search(ruleset):
        what = f"table {foreign[0]}" if foreign else "all tables"
        raise OSError(errno.EINVAL, f"the ruleset touches {what}; accepted: {TABLE} alone")
    opening = _OPENING.search(ruleset, ruleset.rfind(f"delete {TABLE}") + 1)
    if opening is None:
        raise OSError(errno.EINVAL, f"the ruleset has no block `{TABLE} {{`")
    marked = f'{ruleset[: opening.end()]}\n\tcomment "{digest(ruleset)}"\n{ruleset[opening.end() :]}'
    return f"{REMOVE}{marked}\n"


def digest_of(listed: str) -> str:
    """What `Nft.digest` tells, from the text of `nft list`."""
    if not listed.strip():
        return ""
    found = _COMMENT.search(listed)
    return found[1] if found else "?"

"""The hint from a hotplug script to the look, and the package's size. Taken by tests/package/measures.py."""

from __future__ import annotations

from tests.bench.measures import Bench, measure
from tests.package import measures


@measure("hint_to_look_ms", "ipk_kib", full_s=12, quick_s=8)
def openwrt(bench: Bench) -> None:
    """With the real ubusd where it and the binding are found, else with the stand-in that the tests have."""
    runs = bench.runs(20, 10)
    for hotplug, against in ((False, ""), (True, "the hotplug script, from its start")):
        took, how = measures.hint_to_look_ms(runs, hotplug=hotplug)
        bench.add("hint_to_look_ms", *took, against=against, note=how)
    bench.add("ipk_kib", *measures.ipk_kib())

"""The benchmark's own arithmetic, output and register: that a figure says what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench import ddns, figures, measures
from tests.bench.all import everything
from tests.bench.figures import KEYS, Results, joined, rounded, shown, table, unit_of
from tests.bench.measures import MEASURES, Bench, Measure

everything()

# What the project's issues name.
NAMED = (
    *("ddns_move_to_traffic_s", "ddns_move_to_traffic_135s_rule_s", "resolve_50_names_s"),
    *("rss_mib", "start_to_first_decision_s", "engine_step_us", "snapshot_ms"),
    *("outage_carrier_tunnel_ms", "outage_carrier_lan_ms", "failback_lost_packets"),
    *("outage_blackhole_tunnel_ms", "outage_blackhole_lan_ms", "conntrack_delete_10k_ms"),
    *("probes_per_second_steady", "hint_to_look_ms", "ipk_kib"),
    *("cpu_at_rest_percent", "stall_with_250_names_ms", "rss_growth_mib"),
)


@pytest.mark.parametrize("key", NAMED)
def test_every_key_that_an_issue_names_is_taken(key: str) -> None:
    assert [one.name for one in MEASURES.values() if key in one.keys]


def test_every_key_has_one_measure_and_a_unit() -> None:
    taken = [key for one in MEASURES.values() for key in one.keys]
    assert sorted(taken) == sorted(KEYS)
    assert {KEYS[key].unit for key in ("rss_mib", "engine_step_us", "ipk_kib")} == {"MiB", "µs", "KiB"}
    with pytest.raises(ValueError, match="does not end with a unit"):
        unit_of("speed")


def test_a_quick_run_is_three_minutes() -> None:
    assert sum(one.quick_s for one in measures.chosen([], quick=True)) <= 180


def results() -> Results:
    found = Results()
    found.add("engine_step_us", 3.0, 1.0, 20.0, note="in pairs")
    found.add("engine_step_us", 30.0, against="by hand", note="guessed", at_least=True)
    found.add("rss_mib", 12.34567)
    return found


def test_a_figure_has_median_extremes_count_and_unit() -> None:
    data = results().as_data(commit="abc")
    own = data["engine_step_us"]
    assert (own["median"], own["min"], own["max"], own["n"], own["unit"]) == (3.0, 1.0, 20.0, 3, "µs")
    assert own["note"] == "in pairs" and own["commit"] == "abc" and "at_least" not in own
    other = own["against"]["by hand"]
    assert (other["median"], other["n"], other["at_least"], other["note"]) == (30.0, 1, True, "guessed")
    assert data["rss_mib"]["median"] == 12.35 and data["rss_mib"]["target"] == 28
    assert list(data) == ["rss_mib", "engine_step_us"], "in the order of KEYS"


def test_what_was_not_taken_is_not_there() -> None:
    found = Results()
    found.add("rss_mib", 3.0, against="another")
    assert not found.taken("rss_mib") and found.as_data() == {}
    with pytest.raises(KeyError):
        found.add("speed_ms", 1.0)


@pytest.mark.parametrize(
    ("value", "kept", "text"),
    [(0.0123456, 0.01235, "0.01235"), (12.3456, 12.35, "12.35"), (12345.6, 12346, "12,346"), (0.0, 0.0, "0")],
)
def test_digits(value: float, kept: float, text: str) -> None:
    assert rounded(value) == kept
    assert shown(kept) == text


def test_the_table_is_aligned_and_has_ratios() -> None:
    lines = list(table(results().as_data()))
    assert lines[0].split()[:3] == ["figure", "median", "min"]
    (by_hand,) = [line for line in lines if "by hand" in line]
    assert by_hand.split()[2:4] == ["≥", "30"] and by_hand.endswith("≥ × 10")
    (own,) = [line for line in lines if line.startswith("rss_mib")]
    assert own.endswith("≤ 28")
    ends = {match.end() for line in lines if (match := re.match(r".*?(?= (µs|MiB|unit))", line))}
    assert len(ends) == 1, "units begin in one column"


def test_a_ratio_to_nothing_says_nothing() -> None:
    assert figures.ratio({"median": 0.0}, {"median": 3.0}) == ""
    assert figures.ratio({"median": 2.0}, {"median": 3.0}) == "× 1.5"
    assert figures.ratio({"median": 2.0}, {"median": 1.0}) == "× 0.50"


def test_merged_runs_keep_the_others_and_appended_ones_their_samples() -> None:
    old, new = results().as_data(commit="old"), Results()
    new.add("engine_step_us", 4.0, 5.0)
    new.add("engine_step_us", 50.0, against="by hand")
    new.add("engine_step_us", 6.0, against="by foot")
    fresh = new.as_data(commit="new")
    merged = joined(old, fresh, append=False)
    assert merged["rss_mib"] == old["rss_mib"] and merged["engine_step_us"] == fresh["engine_step_us"]
    both = joined(old, fresh, append=True)["engine_step_us"]
    assert both["samples"] == [3, 1, 20, 4, 5] and both["n"] == 5 and both["median"] == 4
    assert both["note"] == "in pairs" and both["commit"] == "new"
    assert both["against"]["by hand"]["samples"] == [30, 50] and both["against"]["by hand"]["at_least"]
    assert both["against"]["by foot"]["samples"] == [6]
    assert joined({"gone_ms": {}}, {}, append=True) == {}, "a key that is no more"


def test_written_at_once(tmp_path: Path) -> None:
    place = tmp_path / "build" / "bench.json"
    figures.write(place, {"a": 1})
    with pytest.raises(TypeError):
        figures.write(place, {"a": object()})
    assert json.loads(place.read_text()) == {"a": 1}
    assert list(place.parent.iterdir()) == [place]


def test_what_is_named_is_chosen() -> None:
    def names(*words: str, quick: bool = False) -> list[str]:
        return [one.name for one in measures.chosen(words, quick=quick)]

    assert names("outage_carrier_lan_ms") == ["carrier"]
    assert names("failover") == ["carrier", "blackhole"]
    assert "peers_250" in names() and "peers_250" not in names(quick=True) + names("peers", quick=True)
    assert names("peers_250_rss_mib", quick=True) == ["peers_250"]
    with pytest.raises(KeyError, match="failoover"):
        names("failoover")


def run(monkeypatch: pytest.MonkeyPatch, place: Path, *words: str) -> int:
    """The command with one measure that works, one that fails and one that takes nothing."""

    def good(bench: Bench) -> None:
        bench.add("ipk_kib", *[7.0] * bench.runs(4, 2))

    def bad(bench: Bench) -> None:
        raise OSError("no such thing")

    known = {
        one.name: one
        for one in (
            Measure("good", ("ipk_kib",), good, 1, 1),
            Measure("bad", ("rss_mib",), bad, 1, 1),
            Measure("empty", ("snapshot_ms",), lambda bench: None, 1, 1),
        )
    }
    monkeypatch.setattr(measures, "MEASURES", known)
    return command.main(["--output", str(place), *words])


def test_a_run_writes_only_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "bench.json"
    place.write_text(json.dumps(results().as_data()))
    assert run(monkeypatch, place, "ipk_kib", "--merge") == 0
    assert list(json.loads(place.read_text())) == ["rss_mib", "engine_step_us", "ipk_kib"]
    assert run(monkeypatch, place, "good", "--quick", "--append") == 0
    assert json.loads(place.read_text())["ipk_kib"]["n"] == 6
    assert run(monkeypatch, place, "good", "--runs", "3") == 0
    assert json.loads(place.read_text())["ipk_kib"]["n"] == 3 and len(json.loads(place.read_text())) == 1
    assert "and nothing else" in capsys.readouterr().out


def test_only_a_figure_that_could_not_be_taken_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "bench.json"
    assert run(monkeypatch, place) == 1
    assert list(json.loads(place.read_text())) == ["ipk_kib"], "the others are there all the same"
    said = capsys.readouterr().err
    assert "bad: OSError: no such thing" in said and "empty: took no sample of snapshot_ms" in said
    assert run(monkeypatch, place, "nonsense") == 2
    assert "'nonsense' is no key" in capsys.readouterr().err


def test_the_computed_rule_lies_where_its_constants_put_it() -> None:
    found = sorted(ddns.computed(2000))
    assert 15 <= found[0] < 25 and 185 < found[-1] <= 195
    assert 95 < found[1000] < 115


def test_what_was_taken_before_it_was_told_to_end_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def long(bench: Bench) -> None:
        bench.add("ipk_kib", 7.0)
        raise SystemExit(143)  # what a lab makes of SIGTERM

    monkeypatch.setattr(measures, "MEASURES", {"long": Measure("long", ("ipk_kib",), long, 1, 1)})
    place = tmp_path / "bench.json"
    assert command.main(["--output", str(place)]) == 1
    assert json.loads(place.read_text())["ipk_kib"]["samples"] == [7.0]

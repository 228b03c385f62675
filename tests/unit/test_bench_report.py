# SPDX-License-Identifier: Apache-2.0
"""From figures to the document, and how rounds alternate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import report, requests
from bench.churn import climb
from bench.plot import Bar, Group, svg
from bench.rounds import Case, alternate
from bench.series import DIRECT, Results, Row, Series, ratio, renewed
from bench.takeover import lost, silence

ROW = Row("keep-alive requests", "1/s", "≥ 0.97 of direct")
BASE = Series("requests", ROW, DIRECT, [100.0, 200.0, 50.0])
OURS = Series("requests", ROW, "anyport", [90.0, 100.0, 45.0])
RESULTS = Results({"date": "today"}, [BASE, OURS])

WRK = """\
Running 1s test @ http://10.77.0.1/
  Latency Distribution
     50%  850.00us
     99%    4.59ms
  51108 requests in 1.00s, 7.41MB read
Requests/sec:  51108.61
"""


def test_a_ratio_is_that_of_rounds_not_of_medians() -> None:
    one = Series("requests", ROW, "peer", [10.0, 180.0, 50.0])
    assert one.median / BASE.median == 0.5
    assert ratio(one, BASE) == 0.9


def test_figures_come_back_from_the_file(tmp_path: Path) -> None:
    RESULTS.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == RESULTS


def test_a_part_measured_anew_leaves_the_others() -> None:
    former = Series("control", ROW, "anyport", [1.0])
    latter = Series("control", ROW, "anyport", [2.0])
    about = {"date": "tomorrow", "command": "make bench", "load before": "0.1"}
    found = renewed(
        Results({"date": "today"}, [BASE, former]), Results(about, [latter]), {"control"}
    )
    assert found.series == [BASE, latter]
    assert found.about == {
        "date": "today",
        "control anew": "tomorrow, load before 0.1, make bench",
    }


def test_the_document_has_each_figure_beside_its_aim(tmp_path: Path) -> None:
    report.write(RESULTS, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| keep-alive requests (1/s) | direct | 100 |  | 50.0-200 |  |" in text
    assert "|  | anyport | 90.0 | 0.90 | 45.0-100 | ≥ 0.97 of direct |" in text
    assert "| date | today |" in text
    ElementTree.parse(tmp_path / "benchmarks/requests.svg")


def test_a_bar_ends_where_the_scale_does() -> None:
    drawing = svg("a < b", [Group("row", [Bar("anyport", 9.0, 1.0, 12.0)])], end=3.0)
    whole = ElementTree.fromstring(drawing)
    bars = [r for r in whole.iter("{http://www.w3.org/2000/svg}rect") if r.get("height") == "13"]
    assert [bar.get("width") for bar in bars] == ["420.0"]


def test_every_second_round_goes_backwards() -> None:
    turns: list[str] = []

    def take(name: str) -> Mapping[Row, float]:
        turns.append(name)
        return {ROW: float(len(turns))}

    found = alternate("requests", [Case(name, partial(take, name)) for name in "abc"], 3)
    assert "".join(turns) == "abccbaabc"
    assert {series.subject: list(series.values) for series in found} == {
        "a": [1.0, 6.0, 7.0],
        "b": [2.0, 5.0, 8.0],
        "c": [3.0, 4.0, 9.0],
    }


def test_what_failed_once_is_tried_again() -> None:
    turns = iter([False, True])

    def measure() -> Mapping[Row, float]:
        if not next(turns):
            raise RuntimeError("busy")
        return {ROW: 1.0}

    (found,) = alternate("requests", [Case("a", measure)], 1)
    assert list(found.values) == [1.0]


def test_what_wrk_says() -> None:
    assert requests.rate(WRK) == 51108.61
    assert requests.latency(WRK, 50) == 850.0
    assert requests.latency(WRK, 99) == pytest.approx(4590.0)
    assert requests.failed(WRK) == ""
    errors = "  Socket errors: connect 1, read 0, write 0, timeout 0\n"
    assert requests.failed(WRK + errors) == errors.strip()


def test_rows_of_several_units_each_say_theirs() -> None:
    series = [
        Series("control", Row("silence", "ms"), "anyport", [4.0]),
        Series("control", Row("changes", "1/s"), "anyport", [2000.0]),
    ]
    drawing = report.plot("Control", series)
    texts = [
        t.text for t in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"Control", "silence (ms)", "changes (1/s)"} <= set(texts)


@pytest.mark.parametrize(("most", "found"), [(99, 40), (30, 30), (20, 20), (10, 10), (9, 0)])
def test_the_highest_rate_that_holds(most: int, found: int) -> None:
    assert climb((10, 20, 30, 40), 20, lambda rate: rate <= most) == found


def test_silence_is_between_answers_and_lost_what_never_had_one() -> None:
    knocks = [(0.0, 0.5), (1.0, None), (2.0, None), (3.0, 3.25), (4.0, 4.25)]
    assert silence(knocks) == 2.75
    assert lost(knocks) == 2

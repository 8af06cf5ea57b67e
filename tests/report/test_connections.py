"""The sections on regions: what the graph draws, what is said, and what names and numbers of regions they survive."""

from __future__ import annotations

import dataclasses
import html
import itertools
import logging
import re

import numpy as np
import pytest
from conftest import Fake, make_run, reach_session
from regions import made_up
from test_page import Outline

from lvmzoo.findings import Claim, Findings, Profile, Question
from lvmzoo.models.base import Connects
from lvmzoo.report import graph as graphs
from lvmzoo.report import profiles
from lvmzoo.report.connections import connection_figures
from lvmzoo.report.graph import Edge, edges, graph
from lvmzoo.report.page import write_report
from lvmzoo.report.profiles import profile_figures
from lvmzoo.report.style import Picture, Statements, Table
from lvmzoo.run import Run

SHARE, PREDICT, DELAY = Question.COMMUNICATION, Question.DIRECTION, Question.DELAY


def claim(question: Question, source: str, target: str, value: float, evidence: bool | None = True, **more) -> Claim:
    return Claim(question, source, target, value, "statistic", evidence=evidence, p=0.01, **more)


def drawn(*claims: Claim) -> list[tuple[str, str, str, str]]:
    regions = list(dict.fromkeys(name for c in claims for name in (c.source, c.target)))
    return [(edge.source, edge.target, edge.kind, edge.label) for edge in edges(regions, Findings(claims))]


class Talker(Fake, Connects):
    """Says of its regions what it was told to say."""

    says: Findings

    def findings(self, batch, seed, progress=None):
        return self.says


def run_of(findings: Findings, units: dict[str, int]) -> Run:
    """A run on a session of these regions, twelve units in all, of which the model says this."""
    session = reach_session()
    layout = dataclasses.replace(session.layout, units=units)
    parts = {p: dataclasses.replace(getattr(session, p), layout=layout) for p in ("train", "validation", "test")}
    run = make_run([dataclasses.replace(session, **parts)])
    run.model.__class__ = Talker
    run.model.says = findings
    return run


def saved(findings: Findings, regions: list[str]) -> Run:
    """The same as it is loaded: with its findings and without data."""
    run = run_of(findings, {regions[0]: 13 - len(regions), **dict.fromkeys(regions[1:], 1)})
    return dataclasses.replace(run, sessions=None, findings={"reach": findings})


def test_an_arrow_is_drawn_for_the_direction_that_survives_and_the_way_back_is_faint():
    assert drawn(claim(PREDICT, "A", "B", 0.2), claim(PREDICT, "B", "A", 0.01, False)) == [
        ("A", "B", "predicts", "0.2"),
        ("B", "A", "nothing", ""),
    ]
    assert drawn(claim(PREDICT, "A", "B", 0.2), claim(PREDICT, "B", "A", 0.01, None))[1][2] == "unknown"


def test_a_pair_of_which_nothing_survives_has_one_faint_line():
    no = [claim(SHARE, "A", "B", 0.2, False), claim(PREDICT, "A", "B", 0.2, None), claim(PREDICT, "B", "A", 0.2, None)]
    assert drawn(*no) == [("A", "B", "nothing", "")]
    assert drawn(*no[1:]) == [("A", "B", "unknown", "")]
    assert drawn(claim(DELAY, "A", "B", 3.0, False, unit="ms")) == [("A", "B", "nothing", "")]


@pytest.mark.parametrize("delay", [20.0, -20.0])
def test_a_delay_stands_at_the_arrow_that_points_its_way(delay):
    found = drawn(
        claim(PREDICT, "A", "B", 0.2), claim(PREDICT, "B", "A", 0.1), claim(DELAY, "A", "B", delay, unit="ms")
    )
    labels = {edge[:2]: edge[3] for edge in found}
    assert labels == {
        ("A", "B"): "0.2, 20 ms" if delay > 0 else "0.2",
        ("B", "A"): "0.1" if delay > 0 else "0.1, 20 ms",
    }


def test_without_an_arrow_a_delay_says_who_follows():
    shared = claim(SHARE, "A", "B", 0.4)
    assert drawn(shared, claim(DELAY, "A", "B", -5.0, unit="ms")) == [("A", "B", "shares", "0.4, A after B: 5 ms")]
    assert drawn(claim(DELAY, "A", "B", -5.0, unit="ms")) == [("B", "A", "follows", "5 ms")]
    lost = claim(SHARE, "A", "B", 0.1, False)
    assert drawn(lost, claim(DELAY, "A", "B", 5.0, unit="ms")) == [("A", "B", "follows", "5 ms")]
    two = [claim(DELAY, "A", "B", value, unit="ms", item=f"latent {i}") for i, value in ((1, 30.0), (2, -20.0))]
    assert drawn(shared, *two) == [("A", "B", "shares", "0.4, B after A: 30 ms, A after B: 20 ms")]


def test_of_several_values_the_strongest_that_survives_is_drawn_and_widths_compare_within_a_kind():
    claims = (
        claim(SHARE, "A", "B", 0.9, False),
        claim(SHARE, "A", "B", 0.3, item="latent 2"),
        claim(SHARE, "B", "C", 0.6),
        claim(PREDICT, "A", "C", 0.001),
    )
    found = {(e.source, e.target): e for e in edges(["A", "B", "C"], Findings(claims))}
    assert found["A", "B"].label == "0.3"
    assert found["A", "B"].weight == pytest.approx(0.5)
    assert found["B", "C"].weight == found["A", "C"].weight == 1.0


def test_dimensions_alone_draw_no_line():
    assert drawn(Claim(Question.DIMENSIONS, "A", "B", 2.0, "1-SE rank")) == []
    assert graph({"A": 3, "B": 3}, Findings((Claim(Question.DIMENSIONS, "A", "B", 2.0, "1-SE rank"),))) is None


NAMES = [
    ["V1", "V2"],
    ["V1", "V2", "MT"],
    ["V1", "V2", "a very long name of a region that nobody would write", "MT", "LIP", "Averylongnamewithoutspaces"],
    [f"R{i}" for i in range(10)],
]


@pytest.mark.parametrize("regions", NAMES, ids=len)
@pytest.mark.parametrize("width", [4.8, 6.5, 3.9])
def test_boxes_of_regions_and_labels_do_not_cover_each_other(monkeypatch, regions, width):
    from matplotlib.figure import Figure

    pairs = list(itertools.combinations(regions, 2))
    findings = made_up(regions, [(a, b, 10.0) for a, b in pairs[::2]])
    boxes: list[list] = []
    label = graphs._label
    monkeypatch.setattr(graphs, "_label", lambda *a: boxes.append(a[3]) or label(*a))
    found = edges(regions, findings)
    height = 2.4 if len(regions) == 2 else 5.6
    missed = graphs._draw(Figure(figsize=(width, height)), dict.fromkeys(regions, 3), found, ["predicts", "nothing"])
    placed = boxes[-1]
    assert len(placed) + missed == len(regions) + sum(bool(edge.label) for edge in found)
    assert missed == 0 or len(regions) > 3
    for (x, y, w, h), (u, v, a, b) in itertools.combinations(placed, 2):
        assert abs(x - u) > w + a - 1e-6 or abs(y - v) > h + b - 1e-6
    for x, y, w, h in placed:
        assert -1e-6 <= x - w < x + w <= width + 1e-6
        assert -1e-6 <= y - h < y + h <= height + 1e-6


def test_every_claim_is_a_sentence_and_a_row(report):
    found = made_up(["V1", "V2", "MT"], [("V1", "V2", 20.0)], short=True)
    found = dataclasses.replace(found, profiles=found.profiles[:2])
    page = html.unescape(report(run_of(found, {"V1": 5, "V2": 6, "MT": 1})))
    headings = Outline(page).headings
    assert headings["h2"][2:5] == ["Regions", "Regions: curves and maps", "Latents"]
    for heading in ("What survives its null", "Delays", "Which region predicts the other?", "V1 and V2 by lag"):
        assert heading in headings["h3"]
    assert page.count('<span class="verdict found">evidence</span>') == 3
    assert "V1 predicts what V2 does next: Granger causality" in page
    assert "unobserved region that drives both" in page
    assert "Too short to tell: 20 correlation times" in page
    assert ">1 unit<" in page
    assert ">5 units<" in page
    tables = [item for item in connection_figures({"V1": 5, "V2": 6, "MT": 1}, found) if isinstance(item, Table)]
    assert [len(table.rows) for table in tables] == [3, 6, 3, 3]
    assert tables[0].caption == "Which regions share activity? Cross-validated canonical correlation"
    assert [table.rows[0][0] for table in tables] == ["V1 and V2", "V1 → V2", "V2 after V1", "V1 to V2"]
    assert tables[3].header == ["Regions", "Value", "95 % interval", "Within a region", "Verdict"]
    assert tables[3].rows[0][3] == "5 (4 to 6)"


def test_that_condition_means_were_removed_is_cautioned_about():
    found = made_up(["V1", "V2"])

    def said(residuals: bool) -> str:
        items = connection_figures({"V1": 3, "V2": 3}, found, residuals)
        return " ".join(item.note for item in items if isinstance(item, Statements))

    assert "gain that both regions share" in said(True)
    assert "gain that both regions share" not in said(False)


def test_names_from_files_stay_inert_in_every_figure(report):
    evil, mathematics = "<script>alert(1)</script>", "$x^{"
    found = made_up([evil, mathematics], [(evil, mathematics, 10.0)])
    page = report(saved(found, [evil, mathematics]))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "$x^{ after" in page


def test_a_loaded_run_shows_what_was_found_and_nothing_is_asked_twice(report, monkeypatch):
    monkeypatch.setattr(Talker, "findings", lambda *a, **k: pytest.fail("asked again"))
    page = report(saved(made_up(["V1", "V2"], [("V1", "V2", 20.0)]), ["V1", "V2"]))
    assert "V2 follows V1 by 20 ms" in page


def test_findings_that_fail_lose_only_their_section(tmp_path, caplog, monkeypatch):
    run = run_of(Findings(), {"V1": 6, "V2": 6})

    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Talker, "findings", fail)
    with caplog.at_level(logging.WARNING):
        write_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "This part could not be drawn (RuntimeError: no luck)." in page
    assert "Rate drift over the session" in page


def test_a_model_that_claims_nothing_says_so(report):
    page = report(saved(Findings(), ["V1", "V2"]))
    assert "makes no claim about the regions" in page
    assert "curves and maps" not in page


def test_many_regions_make_a_page_of_bounded_size(report, monkeypatch):
    monkeypatch.setattr(profiles, "_MOST", 1)
    regions = NAMES[3]
    pairs = list(itertools.combinations(regions, 2))
    page = report(saved(made_up(regions, [(a, b, 10.0) for a, b in pairs[::3]]), regions))
    assert len(page) < 3_000_000
    assert "1 of 45 by lag, 1 of 45 by time" in page
    assert html.unescape(page).count("pairs that claims.csv names") == 3


def pictures(*curves: Profile) -> list[Picture]:
    return [item for item in profile_figures(Findings((), curves)) if isinstance(item, Picture)]


LAGS = np.arange(-2.0, 3) * 20


def test_a_lag_curve_says_its_peak_and_where_it_is_above_chance():
    value = np.array([0.0, 0.05, 0.2, 0.4, 0.1])
    (figure,) = pictures(Profile("lag", "A", "B", "correlation", {"lag (ms)": LAGS}, value, null=np.full(5, 0.15)))
    assert figure.title == "A and B by lag"
    assert "At lags above zero B follows A. Largest at 20 ms (0.4). Above chance from 0 to 20 ms." in figure.caption
    assert ">peak 20 ms<" in figure.svgs[0]
    (figure,) = pictures(Profile("lag", "A", "B", "correlation", {"lag (ms)": LAGS}, value, null=np.full(5, 0.5)))
    assert "Nowhere above chance." in figure.caption
    assert "peak" not in figure.svgs[0]


def test_a_rank_curve_marks_the_choice_beside_the_control():
    explained = np.array([0.0, 0.1, 0.12, 0.11])
    profile = Profile(
        "rank", "A", "B", "1 - NSE", {"dimensions": np.arange(4.0)}, explained, explained - 0.01, explained + 0.01,
        control=2 * explained, control_low=explained, control_high=3 * explained, marks={"1-SE rank": 1.0},
    )  # fmt: skip
    (figure,) = pictures(profile)
    assert figure.caption.startswith(
        "Best with 2 (0.12); 1 is the least within one standard error of it. Bars are standard errors."
    )
    assert ">1-SE rank 1<" in figure.svgs[0]
    assert ">within a region<" in figure.svgs[0]
    (alone,) = pictures(dataclasses.replace(profile, control=None, control_low=None, control_high=None, marks={}))
    assert "within a region" not in alone.svgs[0]


def test_a_map_counts_what_is_above_chance_on_each_side_of_the_diagonal():
    time = np.arange(4) * 0.1
    value = np.zeros((4, 4))
    value[0, 2] = value[1, 3] = 0.5  # A at 0.0 with B at 0.2, ...
    value[3, 0] = 0.5
    profile = Profile(
        "time", "A", "B", "correlation", {"time (s)": time, "time (s) ": time}, value, null=np.full((4, 4), 0.1)
    )
    (figure,) = pictures(profile)
    assert "19 % of the map, in 2 pairs of times with B later and in 1 with A later." in figure.caption
    (figure,) = pictures(dataclasses.replace(profile, null=None))
    assert "Outlined" not in figure.caption
    (figure,) = pictures(dataclasses.replace(profile, value=np.zeros((4, 4))))
    assert "Nowhere above chance" in figure.caption


@pytest.mark.parametrize("bins", [1, 2])
def test_profiles_of_a_bin_or_two_and_of_missing_values_are_drawn(bins):
    axis = {"lag (ms)": np.arange(bins) * 1.0}
    value = np.full(bins, 0.3)
    value[1:] = np.nan
    kinds = [Profile(kind, "A", "B", "x", axis, value, value, value, value) for kind in ("lag", "rank", "trace")]
    both = {"a (s)": np.arange(bins) * 1.0, "b (s)": np.arange(bins) * 1.0}
    kinds.append(Profile("time", "A", "B", "x", both, np.full((bins, bins), 0.3), null=np.full((bins, bins), 0.1)))
    assert len(pictures(*kinds)) == 4
    assert pictures(Profile("lag", "A", "B", "x", axis, np.full(bins, np.nan))) == []


def test_profiles_of_regions_with_evidence_come_first_and_the_rest_are_counted():
    curves = [Profile("lag", f"R{i}", "B", "x", {"lag (ms)": LAGS}, np.ones(5)) for i in range(9)]
    found = Findings((claim(SHARE, "B", "R8", 0.4),), tuple(curves))
    items = list(profile_figures(found))
    drawn_ = [item.title for item in items if isinstance(item, Picture)]
    assert drawn_[0] == "R8 and B by lag"
    assert len(drawn_) == 6
    assert any(isinstance(item, str) and "6 of 9 by lag" in item for item in items)


def test_delays_are_drawn_around_zero_with_their_intervals():
    found = made_up(["V1", "V2", "MT"], [("V2", "V1", 20.0)])
    figures = [item for item in connection_figures({"V1": 3, "V2": 3, "MT": 3}, found) if isinstance(item, Picture)]
    (delays,) = [figure for figure in figures if figure.title == "Delays"]
    assert delays.alt.startswith("Delays with 95 % intervals: V2 after V1 \N{MINUS SIGN}20 ms (\N{MINUS SIGN}26 to")
    assert "Right of zero V2 follows V1, left of it V1 follows V2" in delays.caption
    assert re.search(r">MT after V2<", delays.svgs[0])


def test_an_edge_is_in_full_only_where_it_survives():
    assert [Edge("A", "B", kind).survives for kind in ("predicts", "shares", "follows", "nothing", "unknown")] == [
        True, True, True, False, False,
    ]  # fmt: skip

"""The page of a comparison: what it shows, and that it sorts and filters in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Outline
from matplotlib.figure import Figure

from lvmzoo.batch import Layout, Observation
from lvmzoo.comparison import Row
from lvmzoo.report.leaderboard import write_leaderboard
from lvmzoo.report.likeness import likeness_figures
from lvmzoo.report.matrix import draw_matrix
from lvmzoo.sweep_runs import SavedRun

EVIL = "<script>alert(1)</script>"
VALUES = {"pca": (0.25, 3.0), "lds": (0.31, 120.0), "poisson_lds": (0.28, 40.0), "lfads": (-0.1, 900.0)}


def outcome(job, model, co_bps, seconds=1.0, words=(), **more):
    base = {"session": "monday", "target": "", "better": "higher", "unit": "", "spread": 0.01}
    scores = [
        base | {"metric": "co_bps", "value": co_bps, "unit": "bits/spike", "ceiling": 0.4},
        base | {"metric": "bits_per_spike", "value": co_bps + 0.1, "unit": "bits/spike", "seen": True},
        base | {"metric": "behavior_r2", "target": "hand_velocity", "value": 0.5 + co_bps, "chance": 0.02, "p": 0.05},
        base | {"metric": "behavior_r2_knn", "target": "hand_velocity", "value": 0.4 + co_bps},
        base
        | {"metric": "behavior_error", "target": "heading", "value": 30 - co_bps, "unit": "deg", "better": "lower"},
        base | {"metric": "behavior_r2", "target": "heading", "value": 0.2},
        *(base | {"metric": f"few_shot_co_bps_{shots}", "value": co_bps / 2} for shots in (4, 16, 64)),
    ]
    words = [f"model={model}", *words]
    done = {"job": job, "overrides": words, "code": 0, "error": [], "model": model, "scores": scores}
    return done | {"seconds": seconds} | more


def failed(job, model, why="Error: Training diverged"):
    return {"job": job, "overrides": [f"model={model}"], "code": 3, "error": [why], "model": model}


@pytest.fixture
def outcomes(tmp_path: Path):
    found = [outcome(job, name, *values) for job, (name, values) in enumerate(VALUES.items())]
    for each in found:
        folder = tmp_path / "sweep" / f"job {each['job']}#{each['model']}"
        folder.mkdir(parents=True)
        (folder / "report.html").write_text("")
        each["folder"] = str(folder)
    return [*found, failed(4, "gpfa")]


def page_of(outcomes, tmp_path: Path) -> Path:
    path = write_leaderboard(tmp_path / "leaderboard.html", outcomes)
    assert 'class="failure"' not in path.read_text()
    return path


def rows_of(page: str, shown_only: bool = True) -> list[str]:
    """Return the names of the rows in their order."""
    found = re.findall(r'<tr data-words="[^"]*"( hidden="")?[^>]*>\s*<th scope="row" data-value="([^"]*)"', page)
    return [name for hidden, name in found if not (hidden and shown_only)]


def test_it_has_a_row_a_setting_with_all_that_says_whether_to_trust_it(outcomes, tmp_path: Path):
    page = page_of(outcomes, tmp_path).read_text()
    outline = Outline(page)
    assert outline.stack == []
    assert len(outline.ids) == len(set(outline.ids))
    assert rows_of(page) == ["lds", "poisson_lds", "pca", "lfads", "gpfa"]
    assert "failed: Training diverged" in page
    text = " ".join(re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert "lds 0.310 ± 0.01 of 0.4" in text
    assert "0.810 ± 0.01 chance 0.02" in text
    assert "bits/spike, seen" in text
    assert "below baseline Its co_bps, -0.100, is below that of pca, 0.250" in text  # visible
    assert 'title="Its co_bps, -0.100, is below' in page  # and as a tooltip
    assert "2 min" in text
    assert "The first by co_bps is lds, with 0.310 ± 0.01 on test data." in text
    assert ">few_<wbr>shot_<wbr>co_<wbr>bps_<wbr>64<" in page
    assert "bps_<wbr>16<" not in page  # of several numbers of trials the largest


def test_the_first_without_a_warning_is_named(tmp_path: Path):
    inventing = outcome(0, "lfads", 0.31)
    for score in inventing["scores"]:
        score["value"] = 0.01 if score["metric"].startswith("few_shot") else score["value"]
    text = page_of([inventing, outcome(1, "lds", 0.30)], tmp_path).read_text()
    assert "It carries a warning (invents dynamics); the first without one is lds, with 0.300 ± 0.01." in text


def test_every_number_says_how_much_is_behind_it(tmp_path: Path):
    seeds = [outcome(seed, "lds", 0.3 + 0.1 * seed, words=[f"seed={seed}"]) for seed in (0, 1)]
    for each in seeds:
        each["scores"] = [score | {"n": 2159} for score in each["scores"]]
    page = page_of([*seeds, outcome(2, "pca", 0.2)], tmp_path).read_text()
    titles = re.findall(r'<td class="number[^>]* title="([^"]*)"', page)
    assert "n = 2\N{NARROW NO-BREAK SPACE}159 spikes in each of 2 seeds; ± standard deviation over 2 seeds" in titles
    assert "n = 2\N{NARROW NO-BREAK SPACE}159 bins in each of 2 seeds; ± standard deviation over 2 seeds" in titles
    assert "± standard error over trials or blocks" in titles


def test_rows_with_long_names_are_numbered_in_matrices_that_have_room(tmp_path: Path, recwarn):
    names = [f"a_model_with_a_name latents={i}, a_recording_with_a_long_name_of_day_{i}.nwb" for i in range(9)]
    for width in (3.9, 6.5):
        figure = Figure(figsize=(width, 0.6 + 0.45 * 9), layout="constrained")
        values = np.full((9, 9), 0.5)
        draw_matrix(figure, values, [["0.50"] * 9] * 9, names, 1.0)
        figure.canvas.draw()
        [axes] = figure.axes
        assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(i + 1) for i in range(9)]
        assert axes.get_yticklabels()[4].get_text().startswith("5 a_model_")
        assert axes.get_position().width > 0.4
    assert not [warning for warning in recwarn if "constrained_layout" in str(warning.message)]


def test_links_lead_to_the_report_of_each_run_from_where_the_page_is(outcomes, tmp_path: Path):
    page = page_of(outcomes, tmp_path)
    links = [link for link in Outline(page.read_text()).links if link.endswith("report.html")]
    assert links[0] == "sweep/job%201%23lds/report.html"
    assert len(links) == 4
    several = [outcome(i, "pca", 0.2, 1.0, [f"data.split.fold={i}", "seed=3"]) for i in range(2)]
    for each, other in zip(several, outcomes, strict=False):
        each["folder"] = other["folder"]
    assert re.findall(r">(fold \d, seed \d)</a>", page_of(several, tmp_path).read_text()) == [
        "fold 0, seed 3",
        "fold 1, seed 3",
    ]


def test_decoding_of_all_models_is_in_one_figure_for_each_variable(outcomes, tmp_path: Path):
    titles = Outline(page_of(outcomes, tmp_path).read_text()).headings["h3"]
    assert titles == ["Hand velocity", "Heading"]  # of an angle the error, not R2 besides


def test_forecasts_of_all_models_are_in_one_figure(tmp_path: Path):
    import json

    from lvmzoo.batch import Layout, Observation

    outcomes = [outcome(0, "lds", 0.3), outcome(1, "gpfa", 0.2)]
    layout = Layout("monday", {"all": 2}, ("0", "1"), Observation.COUNTS, 0.1, {})
    for each in outcomes:
        folder = tmp_path / each["model"]
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"layouts": [layout.to_json()], "facts": {}}))
        np.savez(folder / "latents.npz")
        each["folder"] = str(folder)
    base = {"session": "monday", "target": "", "better": "higher", "unit": "", "spread": 0.01}
    outcomes[0]["scores"] += [base | {"metric": f"forecast_r2_{h}", "value": 1 / h} for h in (10, 1, 2)]
    page = page_of(outcomes, tmp_path).read_text()
    assert "Activity, by time ahead" in Outline(page).headings["h3"]
    assert "at the shortest: lds 1.000." in page


def test_strings_from_files_stay_inert_and_one_script_runs(tmp_path: Path):
    import base64
    import hashlib

    bad = outcome(0, EVIL, 0.1, words=[f"data.path={EVIL}"])
    for score in bad["scores"]:
        score |= {"target": EVIL, "unit": EVIL, "session": EVIL}
    page = page_of([bad, outcome(1, "pca", 0.2), failed(2, EVIL, EVIL)], tmp_path).read_text()
    [script] = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert "alert(1)" not in script
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in page
    assert not re.search(r"<[^>]+\son\w+=", page)  # no handlers in attributes
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*', page) == []


SORTED = {
    "": ["lds", "poisson_lds", "pca", "lfads", "gpfa"],
    "#sort=co_bps&order=asc": ["lfads", "pca", "poisson_lds", "lds", "gpfa"],
    "#sort=time": ["pca", "poisson_lds", "lds", "lfads", "gpfa"],  # the shortest first
    "#sort=behavior_error+heading": ["lds", "poisson_lds", "pca", "lfads", "gpfa"],  # lower is better
    "#sort=model&filter=lds": ["lds", "poisson_lds"],
    "#sort=co_bps&order=desc&filter=LDS+poisson": ["poisson_lds"],
    "#filter=baseline": ["lfads"],
    "#filter=nothing": [],
    "#sort=%3Cimg%3E&filter=p": ["poisson_lds", "pca", "gpfa"],  # an unknown heading leaves the order
    "#decoding": ["lds", "poisson_lds", "pca", "lfads", "gpfa"],
}


def test_chromium_sorts_and_filters_by_the_address(outcomes, chromium, tmp_path: Path):
    page = page_of(outcomes, tmp_path).as_uri()
    for fragment, expected in SORTED.items():
        done = chromium(page + fragment, "--dump-dom")
        assert ":CONSOLE" not in done.stderr, done.stderr
        assert rows_of(done.stdout) == expected, fragment
        assert len(rows_of(done.stdout, shown_only=False)) == 5
        if "order=asc" in fragment:
            assert done.stdout.count(' aria-sort="') == 1
            assert re.search(r'data-key="co_bps"[^>]* aria-sort="ascending"', done.stdout)
        said = re.search(r'<span id="count"[^>]*>(.*?)</span>', done.stdout)
        assert said is not None
        assert said[1] == (f"{len(expected)} of 5 rows" if "filter" in fragment else "")


def test_figures_and_sentences_name_the_data_where_there_are_several(tmp_path: Path):
    words = [("pca", "a.nwb", 0.1), ("lds", "a.nwb", 0.2), ("pca", "b.nwb", 0.9), ("lds", "b.nwb", 0.8)]
    outcomes = [outcome(i, name, value, words=[f"data.path={data}"]) for i, (name, data, value) in enumerate(words)]
    page = page_of(outcomes, tmp_path).read_text()
    titles = Outline(page).headings["h3"]
    assert titles == ["Hand velocity, a.nwb", "Heading, a.nwb", "Hand velocity, b.nwb", "Heading, b.nwb"]
    assert "On a.nwb, the first by co_bps is lds" in page
    assert re.findall(r'<th scope="col" data-key="([^"]*)" data-order="asc">', page) == ["model"]  # data have titles
    assert re.findall(r'<tr class="data"><th[^>]*><span>([^<]*)<', page) == ["a.nwb", "b.nwb"]


def test_rows_of_other_data_stay_together(chromium, tmp_path: Path):
    words = [("pca", "a", 0.1), ("lds", "a", 0.2), ("pca", "b", 0.9), ("lds", "b", 0.8)]
    outcomes = [outcome(i, name, value, words=[f"data.path={data}"]) for i, (name, data, value) in enumerate(words)]
    page = page_of(outcomes, tmp_path).as_uri()
    dumped = chromium(f"{page}#sort=co_bps&order=asc&filter=data.path", "--dump-dom").stdout
    assert rows_of(dumped) == ["pca", "lds", "lds", "pca"]
    only = chromium(f"{page}#filter=data.path=b", "--dump-dom").stdout
    assert re.findall(r'<tr class="data"( hidden="")?>', only) == [' hidden=""', ""]


@pytest.mark.parametrize("width", [1280, 390])
def test_chromium_shows_it_without_an_error_and_nothing_sticks_out(outcomes, chromium, tmp_path: Path, width):
    import matplotlib.image

    picture = tmp_path / "page.png"
    done = chromium(page_of(outcomes, tmp_path).as_uri(), f"--window-size={width},2000", f"--screenshot={picture}")
    assert ":CONSOLE" not in done.stderr, done.stderr
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (2000, width)
    drawn = (pixels < 0.97).any(2)
    assert drawn[:400].any()
    assert drawn[:, -4:].mean() < 0.01  # but the rules of the list of sections


def test_dynamics_and_what_latents_span_are_compared_pair_by_pair(tmp_path: Path):
    random = np.random.default_rng(0)
    layout = Layout("monday", {"M1": 2}, ("a", "b"), Observation.COUNTS, 0.02)
    turn = np.array([[0.9, -0.4], [0.4, 0.9]])
    shown, first = [], []
    for job, (name, law) in enumerate({"slow": np.eye(2) * 0.98, "turning": turn, "turning too": turn}.items()):
        trials = []
        for _ in range(12):
            x = [random.normal(size=2)]
            for _ in range(29):
                x.append(law @ x[-1] + 0.1 * random.normal(size=2))
            trials.append(np.array(x))
        folder = tmp_path / name
        folder.mkdir()
        stacked = np.concatenate(trials) if job < 2 else first[1] @ [[0.0, 2.0], [1.0, 0.0]]
        first.append(stacked)
        named = {"monday/test/latents": stacked, "monday/test/trial": np.repeat(np.arange(12), 30)}
        np.savez(folder / "latents.npz", **named)
        shown.append((Row(name, [job], (name,)), [SavedRun(job, folder, "same", {"monday": layout}, False)]))
    distance, angle = likeness_figures(shown)
    told = dict(pair.rsplit(" ", 1) for pair in distance.alt.split(": ")[1].split("; "))
    assert float(told["turning too and turning"]) < 0.5 * float(told["turning and slow"])
    told = dict(pair.rsplit(" ", 1) for pair in angle.alt.split(": ")[1].split("; "))
    assert told["turning too and turning"] == "0°"  # an affine map of it
    assert told["turning and slow"] > "60°"
    assert "Standard errors over trials" in distance.caption
    assert list(likeness_figures(shown[:1])) == []

"""Runs of a sweep beside each other: consistency from their saved latents, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from lvmzoo.batch import Kind, Layout, Observation, Variable
from lvmzoo.comparison import compare
from lvmzoo.report.leaderboard import write_leaderboard
from lvmzoo.report.side_by_side import onto
from lvmzoo.run_sizes import with_sizes
from lvmzoo.sweep_runs import between, read_runs, with_consistency


def saved(folder: Path, job: int, latents, phase, *, fingerprint="same", session="one", words=()):
    """Write what a run leaves behind, as far as a comparison reads it; return the outcome of its job."""
    folder.mkdir()
    behavior = {"heading": Variable(Kind.CIRCULAR)}
    layout = Layout(session, {"all": 2}, ("0", "1"), Observation.COUNTS, 0.1, behavior)
    facts = {"layouts": [layout.to_json()], "facts": {"fingerprint": fingerprint}}
    (folder / "run.json").write_text(json.dumps(facts))
    cut = len(phase) * 3 // 4
    arrays = {}
    for part, rows in (("train", slice(0, cut)), ("test", slice(cut, None))):
        arrays[f"{session}/{part}/latents"] = latents[rows].astype(np.float32)
        arrays[f"{session}/{part}/trial"] = np.zeros(len(phase[rows]), int)
        arrays[f"{session}/{part}/behavior/heading"] = phase[rows, None].astype(np.float32)
    np.savez(folder / "latents.npz", **arrays)
    score = {"metric": "behavior_r2", "target": "heading", "value": 0.5, "session": session}
    return {"job": job, "code": 0, "folder": str(folder), "overrides": list(words), "scores": [score], "seconds": 1.0}


def ring(seed, bins=4000):
    random = np.random.default_rng(seed)
    phase = np.cumsum(random.normal(0, 0.2, bins)) % (2 * np.pi)
    return np.stack([np.cos(phase), np.sin(phase), 0.02 * random.normal(size=bins)], 1), phase


@pytest.fixture
def outcomes(tmp_path):
    latents, phase = ring(0)
    turned = latents @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    noise = np.random.default_rng(2).normal(size=latents.shape)
    other, other_phase = ring(3)
    return [
        saved(tmp_path / "a", 0, latents, phase, words=("model.positives=behavior", "seed=0")),
        saved(tmp_path / "b", 1, turned, phase, words=("model.positives=behavior", "seed=1")),
        saved(tmp_path / "c", 2, noise, phase, words=("model.positives=time", "data.shift_behavior=0")),
        saved(tmp_path / "d", 3, other, other_phase, fingerprint="other", session="two", words=("data.path=d.nwb",)),
    ]


def test_runs_of_the_same_bins_are_compared_bin_by_bin_and_others_by_label(outcomes):
    runs = read_runs(outcomes)
    assert [run.shifted for run in runs.values()] == [False, False, True, False]
    assert between(runs[0], runs[1]).value == pytest.approx(1.0, abs=1e-5)
    assert between(runs[0], runs[2]).value < 0.02
    assert between(runs[0], runs[3]) is None
    aligned = between(runs[0], runs[3], "heading")
    assert aligned.value > 0.98
    assert np.median(aligned.null) < 0.6
    assert between(runs[0], runs[3], "speed") is None


def test_seeds_of_a_setting_get_a_score_and_nothing_else_does(outcomes):
    found = with_consistency(outcomes, [[0, 1], [2], [3]])
    rows = [[s["value"] for s in o["scores"] if s["metric"] == "consistency"] for o in found]
    assert rows[2:] == [[], []]
    assert rows[0] == rows[1] == [pytest.approx(1.0, abs=1e-5)]
    assert all(len(outcome["scores"]) == 1 for outcome in outcomes)  # what was given is left alone


def test_consistency_has_the_number_of_pairs_and_their_spread(outcomes):
    runs = read_runs(outcomes)
    pairs = [
        (between(runs[a], runs[b]).value + between(runs[b], runs[a]).value) / 2 for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    for found in with_consistency(outcomes, [[0, 1, 2, 3]])[:3]:
        score = found["scores"][-1]
        assert (score["metric"], score["n"]) == ("consistency", 3)
        assert score["value"] == pytest.approx(np.mean(pairs))
        assert score["spread"] == pytest.approx(np.std(pairs, ddof=1))
    [alone] = {o["scores"][-1]["n"] for o in with_consistency(outcomes, [[0, 1]])[:2]}
    assert alone == 1
    seeds = with_consistency(outcomes, [[0, 1, 2]])[:3]
    [shown] = compare([each | {"overrides": [f"seed={i}"]} for i, each in enumerate(seeds)]).rows
    assert shown.values["consistency"].spread == pytest.approx(np.std(pairs, ddof=1))
    assert shown.values["consistency"].n == 3


def test_sizes_are_those_of_the_saved_latents(outcomes, tmp_path):
    first = with_sizes([outcomes[0] | {"model": "lds"}, outcomes[1] | {"model": "no_such_model"}, outcomes[2]])
    assert first[0]["size"] == {"latents": 3, "units": 2, "moves": True}
    assert "size" not in first[1]
    assert with_sizes([outcomes[0] | {"model": "pca"}])[0]["size"]["moves"] is False


def test_a_failed_job_or_a_folder_without_latents_is_left_out(outcomes, tmp_path):
    outcomes[0]["code"] = 2
    (tmp_path / "c" / "latents.npz").unlink()
    assert list(read_runs(outcomes)) == [1, 3]


def test_the_page_shows_the_table_the_embeddings_and_the_matrix(outcomes, tmp_path):
    page = write_leaderboard(tmp_path / "leaderboard.html", outcomes)
    assert page == tmp_path / "leaderboard.html"
    text = page.read_text()
    assert "Consistency of settings and seeds" in text
    assert text.count('<figure class="third"') == 3
    assert "shifted against the activity" in text
    assert "aligned on heading" in text
    assert "Not shown" not in text
    assert "Shifted labels are the control" in text
    assert "Goodness of fit" not in text
    assert set(re.findall(r"https?://[^/\s\"]+", text)) <= {"http://www.w3.org"}  # the page needs nothing but itself
    assert "Shifted labels" not in write_leaderboard(page, outcomes[:2]).read_text()


def test_a_page_of_one_run_or_of_runs_without_latents_has_the_table(outcomes, tmp_path):
    for found in (outcomes[:1], [outcomes[0] | {"folder": str(tmp_path)}], [outcomes[0] | {"code": 2, "error": ["x"]}]):
        text = write_leaderboard(tmp_path / "leaderboard.html", found).read_text()
        assert 'id="board"' in text
        assert "Consistency" not in text
        assert ("failed: x" in text) == (found[0]["code"] == 2)


def test_latents_are_turned_onto_those_of_the_same_bins_and_no_axis_is_stretched():
    latents, _ = ring(0)
    random = np.random.default_rng(1)
    turned = 3 * latents @ np.linalg.qr(random.normal(size=(3, 3)))[0] + [1, -2, 5]
    np.testing.assert_allclose(onto(turned, latents), latents - latents.mean(0), atol=1e-9)
    other = random.normal(size=(len(latents), 5))
    found, ours = onto(other, latents), other - other.mean(0)
    padded = np.c_[latents - latents.mean(0), np.zeros((len(latents), 2))]
    rotation, _ = orthogonal_procrustes(ours, padded)
    expected = (ours @ rotation)[:, :3]
    cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1.0, abs=1e-9)

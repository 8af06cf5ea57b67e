"""Claims about regions: what they say in words in each case, and that nothing is lost on the way through JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lvmzoo.errors import UserError
from lvmzoo.findings import Claim, Findings, Profile, Question
from lvmzoo.run import read_findings, write_findings
from lvmzoo.sentences import answers, p_value, verdict
from lvmzoo.train_command import print_answers

MINUS = "\N{MINUS SIGN}"


def claim(question: str, value: float = 0.4, evidence: bool | None = True, **changes) -> Claim:
    plain = {
        "question": Question(question),
        "source": "V1",
        "target": "V2",
        "value": value,
        "statistic": "Granger causality",
        "evidence": evidence,
        **changes,
    }
    return Claim(**plain)


MEASURED = {"interval": (0.35, 0.45), "null": (0.01, 0.08), "p": 0.00497}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            claim("communication", statistic="canonical correlation", **MEASURED, note="permuted trials"),
            "V1 and V2 share activity: canonical correlation 0.4 (95 % interval 0.35 to 0.45; by chance up to 0.08; "
            "p = 0.005). Permuted trials.",
        ),
        (
            claim("communication", 0.002, False, statistic="1 - NSE", null=(-0.02, -0.0131), p=0.4),
            f"No evidence that V1 and V2 share activity: 1 - NSE 0.002 (by chance below zero, {MINUS}0.0131; p = 0.4).",
        ),
        (
            claim("communication", 0.02, False, statistic="canonical correlation", p=0.4, interval=(-0.05, 0.07)),
            "No evidence that V1 and V2 share activity: canonical correlation 0.02 "
            f"(95 % interval {MINUS}0.05 to 0.07; p = 0.4).",
        ),
        (
            claim("communication", math.nan, None, note="too short to tell: 20 correlation times."),
            "Whether V1 and V2 share activity cannot be told. Too short to tell: 20 correlation times.",
        ),
        (
            claim("communication", control=0.5, control_interval=(0.4, 0.6)),
            "V1 and V2 share activity: Granger causality 0.4; within a region 0.5 (0.4 to 0.6).",
        ),
        (
            claim("direction", 0.123456, unit="nats/bin", p=1e-7),
            "V1 predicts what V2 does next: Granger causality 0.123 nats/bin (p < 0.0001).",
        ),
        (
            claim("direction", 0.25, p=0.01, statistic="share of the shared variance in latents that it leads"),
            "V1 predicts what V2 does next: 0.25 (p = 0.01), "
            "the share of the shared variance in latents that it leads.",
        ),
        (
            claim("communication", 0.25, item="beyond V3", statistic="1 - NSE", note="p: of the largest"),
            "V1 and V2 share activity: 1 - NSE 0.25 beyond V3. p: of the largest.",
        ),
        (
            claim("direction", 0.001, False, p=1.0),
            "No evidence that V1 predicts what V2 does next: Granger causality 0.001 (p = 1).",
        ),
        (
            claim("direction", 0.001, None),
            "Whether V1 predicts what V2 does next cannot be told: Granger causality 0.001.",
        ),
        (
            claim("delay", 20.0, unit="ms", interval=(14.0, 27.0), p=0.01, item="latent 2", null=(0.0, 5.0)),
            "V2 follows V1 by 20 ms in latent 2 (95 % interval 14 to 27; p = 0.01).",
        ),
        (
            claim("delay", -20.0, unit="ms", interval=(-27.0, 4.0), p=0.01),
            f"V1 follows V2 by 20 ms (95 % interval {MINUS}4 to 27; p = 0.01).",
        ),
        (
            claim("delay", -0.4, False, unit="ms", statistic="relative delay", p=0.8, item="latent 1"),
            f"No evidence of a delay between V1 and V2: relative delay of latent 1 {MINUS}0.4 ms (p = 0.8).",
        ),
        (
            claim("delay", math.nan, None, unit="ms", note="flat lag map"),
            "A delay between V1 and V2 cannot be told. Flat lag map.",
        ),
        (
            claim("dimensions", 2.0, None, statistic="1-SE rank", interval=(2.0, 3.0), control=5.0),
            "V1 to V2: 2 dimensions, 1-SE rank (95 % of resamples: 2 to 3); within a region 5.",
        ),
        (claim("dimensions", 1.0, None, statistic="1-SE rank"), "V1 to V2: 1 dimension, 1-SE rank."),
        (claim("dimensions", 0.0, False, statistic="1-SE rank"), "V1 to V2: 0 dimensions, 1-SE rank."),
        (
            claim("dimensions", math.nan, None),
            "The number of dimensions between V1 and V2 cannot be told.",
        ),
    ],
)
def test_sentences(given, expected):
    assert given.sentence == expected


def test_what_is_of_no_use_is_said_shortly():
    assert [p_value(p) for p in (0.0, 1 / 201, 0.05, 1.0)] == ["p < 0.0001", "p = 0.005", "p = 0.05", "p = 1"]
    assert verdict(claim("dimensions", 2.0, None)) == "estimate"
    assert verdict(claim("dimensions", math.nan, None)) == "cannot be told"
    assert verdict(claim("delay", 2.0, None)) == "cannot be told"


def test_findings_survive_json():
    claims = [
        claim("delay", -3.25, unit="ms", interval=(-7.5, math.inf), null=(math.nan, 2.0), p=0.25, item="latent 1"),
        claim("dimensions", math.nan, None, control=2.0, control_interval=(1.0, 3.0), note="too short"),
    ]
    lags = np.array([-20.0, 0.0, 20.0])
    value = np.array([0.1, np.nan, 0.3])
    profile = Profile(
        "lag", "V1", "V2", "correlation", {"lag (ms)": lags}, value, value - 1, value + 1, control=value,
        marks={"peak": 20.0}, item="latent 1", note="folds",
    )  # fmt: skip
    table = Profile("time", "V1", "V2", "correlation", {"a (s)": lags, "b (s)": lags[:2]}, np.eye(3)[:, :2])
    back = Findings.from_json(
        json.loads(json.dumps(Findings(tuple(claims), (profile, table)).to_json(), allow_nan=False))
    )
    assert back.claims[0].interval is not None
    assert back.claims[0].interval[0] == -7.5
    assert math.isnan(back.claims[0].interval[1])  # JSON knows no infinity
    assert dataclasses.replace(back.claims[0], interval=None, null=None) == dataclasses.replace(
        claims[0], interval=None, null=None
    )
    assert math.isnan(back.claims[1].value)
    assert back.claims[1].control_interval == (1.0, 3.0)
    assert isinstance(back.claims[1].control_interval, tuple)
    for before, after in zip((profile, table), back.profiles, strict=True):
        for field in dataclasses.fields(Profile):
            old, new = getattr(before, field.name), getattr(after, field.name)
            if field.name == "axes":
                assert list(old) == list(new)
                assert all(np.array_equal(old[name], new[name]) for name in old)
            elif isinstance(old, np.ndarray):
                np.testing.assert_array_equal(old, new)
            else:
                assert old == new


def many(question: str, count: int, evidence: bool | None, **changes) -> list[Claim]:
    return [
        claim(question, 0.1 + 0.01 * i, evidence, source=f"R{i}", target=f"R{i + 1}", **changes) for i in range(count)
    ]


@pytest.mark.parametrize(
    "text", ["{torn", "[]", '{"a": null}', '{"a": {"claims": [{"question": "why", "value": 1}], "profiles": []}}']
)
def test_a_folder_without_findings_has_none_and_damaged_ones_are_named(tmp_path: Path, text: str) -> None:
    assert read_findings(tmp_path) == {}
    claim = Claim(Question.DELAY, "A", "B", 20.0, "lag", "ms")
    write_findings(tmp_path, {"a": Findings((claim,))})
    assert read_findings(tmp_path)["a"].claims == (claim,)
    (tmp_path / "findings.json").write_text(text)
    with pytest.raises(UserError, match=r"findings\.json cannot be read"):
        read_findings(tmp_path)


def test_answers_come_by_question_with_the_strongest_evidence_first():
    claims = [
        *many("delay", 1, False, p=0.5),
        *many("communication", 1, False, p=0.5),
        *many("communication", 3, True, p=0.01),
        *many("communication", 1, None),
    ]
    found = answers(claims)
    assert [answer.question for answer in found] == [Question.COMMUNICATION, Question.DELAY]
    assert [word for word, _ in found[0].lines] == ["evidence"] * 3 + ["no evidence", "cannot be told"]
    assert [text.split(" share")[0] for _, text in found[0].lines[:3]] == ["R2 and R3", "R1 and R2", "R0 and R1"]


def test_many_without_evidence_share_a_sentence_and_notes_are_said_once():
    short = {"note": "too short to tell"}
    claims = [
        *many("direction", 5, False, p=0.25, note="permuted"),
        *many("direction", 1, True, p=0.01, note="permuted"),
    ]
    (found,) = answers([*claims, *many("direction", 1, None, **short)])
    (_, strong), (_, weak), (_, unknown) = found.lines
    assert found.note == "Permuted."
    assert "ermuted" not in strong + weak + unknown
    assert unknown.endswith("Too short to tell.")
    assert weak == (
        "No evidence that the first predicts what the second does next: R0 → R1; R1 → R2; R2 → R3; R3 → R4; R4 → R5 "
        "(smallest p = 0.25)."
    )
    (found,) = answers(many("delay", 40, False, p=0.25, note="one") + many("delay", 40, False, p=0.125, note="other"))
    assert found.note == ""
    assert found.lines == (
        (
            "no evidence",
            "No evidence of a delay between these: 80 pairs that claims.csv names (smallest p = 0.12).",
        ),
    )


def test_parts_of_notes_that_differ_stay_with_their_claims():
    shared = "null: permuted; interval: resampled"
    claims = many("delay", 2, False, p=0.5, note=shared) + many("delay", 1, True, p=0.01, note=f"{shared}; at the end.")
    (found,) = answers(claims)
    assert found.note == "Null: permuted; interval: resampled."
    assert [text.rpartition(")")[2] for _, text in found.lines] == [". At the end.", ".", "."]


def test_much_evidence_is_listed_shortly():
    (found,) = answers(many("communication", 10, True, p=0.01))
    assert len(found.lines) == 9
    assert found.lines[-1] == ("evidence", "The same is said of R1 and R2 0.11; R0 and R1 0.1.")


def test_nothing_is_said_of_nothing():
    assert answers([]) == []
    assert printed([]) == []


def printed(claims: list[Claim], width: int = 80) -> list[str]:
    screen = io.StringIO()
    print_answers(Console(file=screen, width=width), Findings(tuple(claims)))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_a_terminal_shows_questions_with_their_answers_in_its_width():
    lines = printed([claim("direction", 0.1, False, source="[red]V3", p=0.5), claim("direction", p=0.01)])
    assert lines[:2] == ["", "Which region predicts the other?"]
    assert lines[2].startswith("  evidence")
    assert any(line.startswith("  no evidence") for line in lines)
    assert "[red]V3" in " ".join(lines)
    assert "Direction is precedence" in " ".join(lines)
    assert max(map(len, lines)) <= 80


def test_what_is_not_by_way_of_other_regions_says_so() -> None:
    claim = Claim(Question.COMMUNICATION, "A", "C", 0.1, "likelihood ratio", p=0.9, evidence=False, item="directly")
    assert claim.sentence.startswith("No evidence that A and C share activity directly: ")
    found = dataclasses.replace(claim, evidence=True).sentence
    assert found.startswith("A and C share activity directly: ")
    assert "0.1 directly" not in found


def test_the_table_of_claims_holds_a_number_a_column(tmp_path: Path) -> None:
    found = Findings((claim("communication", **MEASURED), claim("dimensions", control_interval=(5.0, 6.0))))
    write_findings(tmp_path, {"monkey": found})
    table = pd.read_csv(tmp_path / "claims.csv")
    numbers = ["interval_low", "interval_high", "null_median", "null_high", "control_low", "control_high"]
    assert table[numbers].dtypes.eq("float64").all()
    np.testing.assert_array_equal(table[numbers], [[0.35, 0.45, 0.01, 0.08, *[np.nan] * 2], [*[np.nan] * 4, 5, 6]])
    assert list(table["sentence"]) == [one.sentence for one in found.claims]
    assert set(table["session"]) == {"monkey"}
    (again,) = read_findings(tmp_path).values()
    assert again.claims == found.claims

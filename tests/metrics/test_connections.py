"""Claims beside the truth: what is right, missed, invented or not told, and how far values are off."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from lvmzoo.findings import Claim, Findings, Question
from lvmzoo.metrics.base import Evaluation
from lvmzoo.metrics.connections import Connections
from tests.metrics.toy import Base, Full, make_session

CHAIN = pd.DataFrame(
    [
        {"source": "A", "target": "B", "delay_s": 0.04, "dimensions": 2},
        {"source": "B", "target": "C", "delay_s": 0.06, "dimensions": 2},
    ]
)


def scores(*claims, connections=CHAIN, regions=("A", "B", "C")):
    """Return the rows for a session of these regions in which a model claims this."""
    session = make_session()
    layout = dataclasses.replace(session.layout, units=dict.fromkeys(regions, 6))
    session = dataclasses.replace(
        session, train=dataclasses.replace(session.train, layout=layout), connections=connections
    )
    evaluation = Evaluation(None, session)
    evaluation.kept("findings", lambda: Findings(claims))
    return {row.metric: row for row in Connections()(evaluation)}


def directions(**evidence):
    """Claims for each ordered pair: no evidence, or what is given: AB=True."""
    pairs = ("AB", "BA", "AC", "CA", "BC", "CB")
    return [Claim(Question.DIRECTION, *pair, 0.1, "gain", evidence=evidence.get(pair, False)) for pair in pairs]


def delay(pair, value, evidence=True):
    return Claim(Question.DELAY, *pair, value, "peak", "ms", evidence=evidence)


def test_who_says_what_is_true_is_right():
    found = scores(*directions(AB=True, BC=True), delay("AB", 40.0), delay("CB", -60.0))
    assert found["direction_correct"].value == 1
    assert found["direction_correct"].n == 6
    assert found["edges_found"].value == 1
    assert (found["edges_invented"].value, found["edges_invented"].n) == (0, 4)
    assert found["delay_error"].value == pytest.approx(0)
    assert found["delay_error"].unit == "ms"
    assert found["delay_found"].value == 1
    assert not any(row.note for row in found.values())


def test_the_note_says_which_edges_are_missed_invented_or_not_told():
    found = scores(*directions(AB=True, BC=False, AC=True, CB=None, BA=True))
    assert found["direction_correct"].value == pytest.approx(2 / 6)
    assert found["direction_correct"].note == "A → C invented, B → A invented, B → C missed, C → B not told"
    assert found["edges_found"].value == 0.5
    assert found["edges_found"].note == "B → C missed"
    assert found["edges_invented"].value == 2
    assert found["edges_invented"].note == "A → C (indirect), B → A"
    assert found["edges_invented"].better == "lower"


def test_pairs_of_which_nothing_is_said_count_as_wrong():
    found = scores(Claim(Question.DIRECTION, "A", "B", 0.1, "gain", evidence=True))
    assert found["direction_correct"].value == pytest.approx(1 / 6)


def test_the_sign_of_a_delay_counts():
    found = scores(delay("AB", -40.0), delay("BC", 50.0))
    assert found["delay_error"].value == pytest.approx((80 + 10) / 2)
    assert found["delay_found"].value == 0.5
    assert found["delay_found"].note == "A → B missed"


def test_a_delay_without_evidence_has_an_error_and_is_not_found():
    found = scores(delay("AB", 38.0, None), delay("BC", math.nan, None))
    assert found["delay_error"].value == pytest.approx(2)
    assert found["delay_error"].n == 1
    assert found["delay_found"].value == 0
    assert "delay_error" not in scores(delay("AB", math.nan, None))


def test_several_latents_of_a_pair_count_once():
    found = scores(delay("AB", 40.0), delay("AB", 44.0), delay("AB", 90.0), delay("BC", 60.0))
    assert found["delay_error"].value == pytest.approx((4 + 0) / 2)
    assert found["delay_found"].value == 1


def test_delays_without_evidence_do_not_spoil_those_with_it():
    found = scores(delay("AB", 42.0), delay("AB", 300.0, False), delay("BC", 30.0, False), delay("BC", 10.0, None))
    assert found["delay_error"].value == pytest.approx((2 + 40) / 2)
    assert found["delay_found"].value == 0.5


def test_delays_between_regions_that_do_not_drive_each_other_are_left_out():
    assert not scores(delay("AC", 100.0))


def test_dimensions_of_the_true_connections():
    def rank(pair, value):
        return Claim(Question.DIMENSIONS, *pair, value, "rank")

    found = scores(rank("AB", 2.0), rank("BA", 7.0), rank("AC", 9.0), rank("CB", 5.0))["dimensions_error"]
    assert found.value == pytest.approx((0 + 3) / 2)
    assert found.note == "A → B 2 of 2, B → C 5 of 2"
    assert found.better == "lower"


def test_regions_that_share_a_source_communicate_and_those_that_share_a_target_do_not():
    def said(**evidence):
        return [Claim(Question.COMMUNICATION, *pair, 0.3, "r", evidence=e) for pair, e in evidence.items()]

    everything = said(AB=True, BC=True, AC=True)
    assert scores(*everything)["communication_correct"].value == 1
    fork = CHAIN.assign(source=["A", "A"])
    assert scores(*everything, connections=fork)["communication_correct"].value == 1
    collider = CHAIN.assign(source=["A", "C"], target=["B", "B"])
    found = scores(*everything, connections=collider)["communication_correct"]
    assert found.value == pytest.approx(2 / 3)
    assert found.note == "A and C invented"
    assert scores(*said(AB=True, BC=True, AC=None))["communication_correct"].note == "A and C not told"


def test_connections_of_regions_that_are_not_in_the_data_do_not_count():
    found = scores(*directions(AB=True), regions=("A", "B"))
    assert found["edges_found"].n == 1
    assert found["direction_correct"].n == 2


def test_regions_share_activity_by_way_of_one_that_is_not_in_the_data():
    shared = Claim(Question.COMMUNICATION, "A", "C", 0.3, "r", evidence=True)
    driven = Claim(Question.DIRECTION, "A", "C", 0.3, "gain", evidence=True)
    found = scores(shared, driven, regions=("A", "C"))
    assert found["communication_correct"].value == 1
    assert found["edges_invented"].note == "A → C (indirect)"
    fork = CHAIN.assign(source="B", target=["A", "C"])
    assert scores(shared, connections=fork, regions=("A", "C"))["communication_correct"].value == 1


def test_nothing_is_to_be_found_where_no_region_drives_another():
    found = scores(*directions(AB=True), delay("AB", 3.0), connections=CHAIN[:0])
    assert found["edges_invented"].value == 1
    assert set(found) == {"direction_correct", "edges_invented"}


def test_without_truth_or_claims_there_is_no_row():
    session = make_session()
    assert len(Connections()(Evaluation(Full(session), session))) == 7
    assert not Connections()(Evaluation(Full(session), dataclasses.replace(session, connections=None)))
    assert not scores()
    assert not isinstance(Base(session), Connections.needs)


def test_claims_of_direct_communication_are_judged_by_direct_connections():
    said = {"AB": True, "BC": True, "AC": False}
    claims = [Claim(Question.COMMUNICATION, *pair, 0.1, "ratio", evidence=value) for pair, value in said.items()]
    assert scores(*claims)["communication_correct"].value == pytest.approx(2 / 3)  # A and C share activity through B
    direct = [dataclasses.replace(claim, item="directly") for claim in claims]
    assert scores(*direct)["communication_correct"].value == 1

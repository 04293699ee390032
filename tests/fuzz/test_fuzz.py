"""A seeded part of `make fuzz`, and what it found: each finding by name, so that it stays found."""

import random

import pytest

from .mutators import DAMAGE, FORGERY, apply
from .subject import Judge, Subject, copy_of

CASES = 60


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return Subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def judge():
    with Judge() as running:
        yield running


def test_the_subject_itself_is_judged_right(subject, judge, tmp_path):
    assert judge.verdict(subject, copy_of(subject, tmp_path / "case"), forged=False) == ""


@pytest.mark.parametrize("kind", ["damage", "forgery"])
def test_a_seeded_part(subject, judge, tmp_path, kind):
    for seed in range(CASES):
        path = copy_of(subject, tmp_path / "case")
        how = apply(DAMAGE if kind == "damage" else FORGERY, path, random.Random(f"{kind}/{seed}"))
        assert judge.verdict(subject, path, forged=kind == "forgery") == "", (seed, how)

"""Which prompts take part in an update."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfroute.errors import ConfigError
from selfroute.grading import Outcome
from selfroute.train.rl.prompt_filter import PromptFilter, classify, ratio_from_share

SOLVED = Outcome(wants_cloud=False, device_correct=True)
WRONG = Outcome(wants_cloud=False, device_correct=False)
HELPED = Outcome(wants_cloud=True, device_correct=False, cloud_correct=True)
NOT_HELPED = Outcome(wants_cloud=True, device_correct=False, cloud_correct=False)
CLOUD_FAILED = Outcome(wants_cloud=True, device_correct=False, cloud_correct=None)
UNGRADED = Outcome(wants_cloud=False, device_correct=None)

KINDS = {"device": [WRONG, SOLVED], "cloud": [HELPED, WRONG], "neither": [WRONG, NOT_HELPED]}


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ([SOLVED, WRONG], "device"),
        ([SOLVED, SOLVED], "device"),  # no gradient, but it raises |D1|, the cap and the divisor
        ([SOLVED, HELPED], "device"),  # solved on the device: never in D2
        ([HELPED, WRONG], "cloud"),
        ([HELPED, HELPED], "cloud"),
        ([HELPED, CLOUD_FAILED], "cloud"),
        ([WRONG, WRONG], "neither"),
        ([NOT_HELPED, WRONG], "neither"),
        ([CLOUD_FAILED, WRONG], "neither"),
        ([UNGRADED, WRONG], "neither"),
        ([UNGRADED, SOLVED], "device"),
    ],
)
def test_kinds_of_groups(group: list[Outcome], kind: str) -> None:
    assert classify(group) == kind


def test_thirty_percent_is_three_to_seven() -> None:
    assert ratio_from_share(0.3) == pytest.approx(3 / 7)
    assert ratio_from_share(0.5) == 1.0


@given(st.floats(0.001, 0.999))
def test_a_share_and_its_ratio_say_the_same(share: float) -> None:
    ratio = ratio_from_share(share)
    assert ratio / (1 + ratio) == pytest.approx(share)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 30.0, float("nan"), float("inf")])
def test_shares_that_cannot_be_are_named(share: float) -> None:
    with pytest.raises(ConfigError, match=f"not {share:g}"):
        ratio_from_share(share)


def test_all_of_d1_and_a_capped_draw_of_d2() -> None:
    groups = [KINDS[kind] for kind in ["device"] * 7 + ["cloud"] * 10 + ["neither"] * 5]
    selection = PromptFilter(3 / 7).select(groups, random.Random(0))
    assert selection.device == list(range(7))
    assert len(selection.cloud) == 3
    assert set(selection.cloud) <= set(range(7, 17))
    assert selection.cloud_seen == 10
    assert selection.prompts == [*range(7), *selection.cloud]


def test_fewer_d2_prompts_than_allowed_all_take_part() -> None:
    groups = [KINDS[kind] for kind in ["device"] * 7 + ["cloud"] * 2]
    assert PromptFilter(3 / 7).select(groups, random.Random(0)).cloud == [7, 8]


def test_without_d1_there_is_no_update() -> None:
    assert PromptFilter(3 / 7).select([KINDS["cloud"]] * 5, random.Random(0)).prompts == []


def test_the_fraction_is_carried_to_the_next_step() -> None:
    filter, rng = PromptFilter(0.4), random.Random(0)
    groups = [KINDS["device"], *[KINDS["cloud"]] * 4]
    taken = [len(filter.select(groups, rng).cloud) for _ in range(10)]
    assert taken == [0, 0, 1, 0, 1, 0, 0, 1, 0, 1]


def test_the_same_generator_draws_the_same_prompts_and_another_one_others() -> None:
    groups = [KINDS[kind] for kind in ["device"] * 10 + ["cloud"] * 20]

    def draw(seed: int) -> list[int]:
        return PromptFilter(0.5).select(groups, random.Random(seed)).cloud

    assert draw(3) == draw(3)
    assert len({tuple(draw(seed)) for seed in range(20)}) > 10


def test_every_d2_prompt_has_the_same_chance() -> None:
    groups = [KINDS[kind] for kind in ["device"] * 4 + ["cloud"] * 4]
    rng, counts = random.Random(0), [0] * 8
    for _ in range(2000):
        for index in PromptFilter(0.5).select(groups, rng).cloud:
            counts[index] += 1
    assert all(900 < count < 1100 for count in counts[4:])


steps = st.lists(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=12), min_size=1, max_size=40)


@given(steps, st.floats(0.05, 0.95), st.integers())
def test_the_share_holds_over_many_steps(batches: list[list[str]], share: float, seed: int) -> None:
    filter, rng = PromptFilter(ratio_from_share(share)), random.Random(seed)
    device = cloud = 0
    for kinds in batches:
        selection = filter.select([KINDS[kind] for kind in kinds], rng)
        assert selection.device == [i for i, kind in enumerate(kinds) if kind == "device"]
        assert all(kinds[i] == "cloud" for i in selection.cloud)
        assert len(set(selection.cloud)) == len(selection.cloud) <= selection.cloud_seen == kinds.count("cloud")
        assert 0 <= filter.carry < 1
        device, cloud = device + len(selection.device), cloud + len(selection.cloud)
        assert cloud <= filter.ratio * device + 1


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.floats(0.05, 0.9))
def test_the_share_is_used_up_where_there_are_prompts_enough(counts: list[int], share: float) -> None:
    filter, rng = PromptFilter(ratio_from_share(share)), random.Random(0)
    taken = sum(len(filter.select([*[KINDS["device"]] * count, *[KINDS["cloud"]] * 60], rng).cloud) for count in counts)
    assert taken > filter.ratio * sum(counts) - 1 - 1e-6


def test_a_step_goes_on_from_a_saved_carry() -> None:
    groups = [KINDS["device"], KINDS["cloud"], KINDS["cloud"]]
    whole = PromptFilter(0.6)
    whole.select(groups, random.Random(0))
    assert whole.select(groups, random.Random(1)) == PromptFilter(0.6, carry=0.6).select(groups, random.Random(1))


@pytest.mark.parametrize(
    ("device", "cloud", "kind"),
    [(0.5, None, "device"), (0.4, None, "neither"), (0.4, 0.6, "cloud"), (0.4, 0.4, "neither"), (None, True, "cloud")],
)
def test_a_quality_of_one_half_is_solved(device: float | None, cloud: float | None, kind: str) -> None:
    group = [Outcome(wants_cloud=False, device_correct=device), Outcome(wants_cloud=True, cloud_correct=cloud)]
    assert classify(group) == kind

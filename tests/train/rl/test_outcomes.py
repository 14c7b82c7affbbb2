"""Outcomes of rollouts: what the device wrote, and what the cloud says where it was asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from selfroute.backends.function import FunctionBackend
from selfroute.errors import BackendUnavailable
from selfroute.grading import Outcome
from selfroute.handoff import HANDOFF_TEXT
from selfroute.prices import Price
from selfroute.privacy.values import Leakage
from selfroute.prompts import TEMPLATES
from selfroute.rewards.hierarchical import hierarchical
from selfroute.scores.oracles import Judged, leaks
from selfroute.tasks.base import Row, digest_of
from selfroute.tasks.countdown import Countdown
from selfroute.tasks.tickets import Tickets
from selfroute.train.rl.outcomes import CloudAnswers, OutcomeGrader
from selfroute.train.rl.rollout_metrics import rollout_metrics
from selfroute.types import Message, Sampling
from selfroute.verify.base import Verdict

TASK = Countdown(limit=4, seed=1)
ROWS = {row.id: row for row in TASK.rows("train")}
IDS = list(ROWS)
KEYS = [digest_of(row) for row in ROWS.values()]
ASK = f"<think>?{HANDOFF_TEXT}"
WRONG = "<think></think><answer>1</answer>"


class Cloud:
    """Counts what it is asked; `down` prompts fail and `wrong` ones get a wrong answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.samplings: list[Sampling] = []
        self.down: set[str] = set()
        self.wrong: set[str] = set()
        self.backend = FunctionBackend("cloud", self.answer)

    def answer(self, messages: Sequence[Message], sampling: Sampling) -> str:
        assert [message.role for message in messages] == ["user"]
        row = next(row for row in ROWS.values() if row.question in messages[0].content)
        self.asked.append(row.id)
        self.samplings.append(sampling)
        if row.id in self.down:
            raise BackendUnavailable("down", backend="cloud")
        return WRONG if row.id in self.wrong else TASK.gold_completion(row)


def grader(cloud: Cloud) -> OutcomeGrader:
    answers = CloudAnswers(TASK, cloud.backend, TEMPLATES["think"], max_tokens=64)
    return OutcomeGrader(TASK, ROWS, answers)


def gold(row_id: str) -> str:
    return TASK.gold_completion(ROWS[row_id])


def test_outcomes_in_order() -> None:
    cloud = Cloud()
    cloud.wrong = {IDS[2]}
    outcomes = grader(cloud)([IDS[0], IDS[0], IDS[1], IDS[2], IDS[3]], [gold(IDS[0]), WRONG, ASK, ASK, ""])
    assert outcomes == [
        Outcome(wants_cloud=False, device_correct=True),
        Outcome(wants_cloud=False, device_correct=False, formatted=True),
        Outcome(wants_cloud=True, device_correct=False, cloud_correct=True),
        Outcome(wants_cloud=True, device_correct=False, cloud_correct=False),
        Outcome(wants_cloud=False, device_correct=False),
    ]


def test_the_cloud_is_asked_once_per_prompt_and_only_where_a_rollout_asks() -> None:
    cloud = Cloud()
    grade = grader(cloud)
    grade([IDS[0]] * 3 + [IDS[1]] * 2, [ASK, ASK, WRONG, WRONG, gold(IDS[1])])
    assert cloud.asked == [IDS[0]]
    outcomes = grade([IDS[0], IDS[1]], [ASK, ASK])
    assert sorted(cloud.asked) == sorted([IDS[0], IDS[1]])
    assert [outcome.cloud_correct for outcome in outcomes] == [True, True]
    assert grade.cloud is not None
    assert (grade.cloud.calls, grade.cloud.failures) == (2, 0)


def test_the_cloud_decodes_greedily() -> None:
    cloud = Cloud()
    grader(cloud)([IDS[0]], [ASK])
    assert [(s.temperature, s.max_tokens) for s in cloud.samplings] == [(0.0, 64)]


def test_a_wrong_answer_of_the_cloud_is_kept_and_not_asked_for_again() -> None:
    cloud = Cloud()
    cloud.wrong = {IDS[0]}
    grade = grader(cloud)
    for _ in range(2):
        assert grade([IDS[0]], [ASK])[0].cloud_correct is False
    assert len(cloud.asked) == 1


def test_a_failed_cloud_is_none_and_asked_again_later() -> None:
    cloud = Cloud()
    cloud.down = {IDS[0]}
    grade = grader(cloud)
    failed = grade([IDS[0], IDS[0], IDS[1]], [ASK, ASK, ASK])
    assert [outcome.cloud_correct for outcome in failed] == [None, None, True]
    assert hierarchical(failed[0]) is None
    assert grade.cloud is not None
    assert (grade.cloud.calls, grade.cloud.failures) == (2, 1)
    cloud.down = set()
    assert grade([IDS[0]], [ASK])[0].cloud_correct is True
    assert (grade.cloud.calls, grade.cloud.failures) == (3, 1)


def test_without_a_cloud_asking_earns_nothing() -> None:
    outcomes = OutcomeGrader(TASK, ROWS, None)([IDS[0], IDS[0]], [ASK, gold(IDS[0])])
    assert outcomes[0] == Outcome(wants_cloud=True, device_correct=False, cloud_correct=False)
    assert [hierarchical(outcome) for outcome in outcomes] == [0.0, 1.0]


def test_a_learned_reward_scores_local_answers_at_once() -> None:
    asked: list[list[tuple[str, str]]] = []

    def scores(rows: Sequence[tuple[str, str]]) -> list[float | None]:
        asked.append(list(rows))
        return [None if "long" in text else float(len(text)) for _, text in rows]

    grade = OutcomeGrader(TASK, ROWS, None, scores=scores)
    solved, asking, unknown = grade([IDS[0], IDS[0], IDS[1]], [gold(IDS[0]), ASK, "too long"])
    assert asked == [[(ROWS[IDS[0]].question, gold(IDS[0])), (ROWS[IDS[1]].question, "too long")]]
    assert (solved.score, solved.device_correct) == (float(len(gold(IDS[0]))), True)
    assert asking.score is None
    assert (unknown.score, unknown.device_correct) == (None, None)  # left out, never a zero


class Broken(Countdown):
    def verify(self, row: Row, completion: str) -> Verdict:
        raise RuntimeError("out of memory")


def test_a_verifier_that_fails_gives_none_never_zero() -> None:
    outcome = OutcomeGrader(Broken(), ROWS, None)([IDS[0]], [gold(IDS[0])])[0]
    assert outcome.device_correct is None
    assert hierarchical(outcome) is None


def test_no_rollouts_are_no_outcomes() -> None:
    cloud = Cloud()
    assert grader(cloud)([], []) == []
    assert cloud.asked == []


def test_a_restored_state_knows_the_answers_and_counts_on() -> None:
    cloud = Cloud()
    cloud.down, cloud.wrong = {IDS[1]}, {IDS[2]}
    before = grader(cloud)
    before(IDS, [ASK] * 4)
    assert before.cloud is not None
    after = grader(cloud)
    assert after.cloud is not None
    after.cloud.restore([before.cloud.state()])
    cloud.asked.clear()
    outcomes = after(IDS, [ASK] * 4)
    assert cloud.asked == [IDS[1]]  # a failed row is asked for again
    assert [outcome.cloud_correct for outcome in outcomes] == [True, None, False, True]
    assert (after.cloud.calls, after.cloud.failures) == (5, 2)


def test_what_the_answers_cost_is_counted_on_after_a_restart() -> None:
    cloud = Cloud()
    cloud.down = {IDS[1]}
    straight, before, after = (
        CloudAnswers(TASK, cloud.backend, TEMPLATES["think"], max_tokens=64, price=Price(completion_usd=10.0))
        for _ in range(3)
    )
    before.correct([ROWS[IDS[0]], ROWS[IDS[1]]])  # the second call fails and costs nothing
    after.restore([before.state()])
    after.correct([ROWS[IDS[0]], ROWS[IDS[2]]])  # the first is known
    straight.correct([ROWS[IDS[0]], ROWS[IDS[2]]])
    assert after.usd == pytest.approx(straight.usd)
    assert 0 < before.usd < after.usd


@pytest.mark.parametrize("count", [True, False])
def test_the_states_of_several_processes_are_put_together(count: bool) -> None:
    answers = CloudAnswers(TASK, Cloud().backend, TEMPLATES["think"], max_tokens=64)
    states = [
        {"calls": 2, "failures": 1, "usd": 0.5, "known": {KEYS[0]: True, KEYS[1]: None}},
        {"calls": 1, "failures": 0, "usd": 0.25, "known": {KEYS[2]: False}},
    ]
    answers.restore(states, count=count)
    assert (answers.calls, answers.failures, answers.usd) == ((3, 1, 0.75) if count else (0, 0, 0.0))
    assert answers.correct([ROWS[IDS[0]], ROWS[IDS[2]]]) == [True, False]


def test_rows_that_moved_keep_their_verdicts() -> None:
    """Ids may be the numbers of lines, which a row put in front moves."""

    def rows(*questions: str) -> list[Row]:
        return [Row(f"train-{i}", question, "1") for i, question in enumerate(questions, start=1)]

    class Easy(Countdown):
        def verify(self, row: Row, completion: str) -> Verdict:
            return Verdict(completion == row.question)

    def only_one(messages: Sequence[Message], sampling: Sampling) -> str:
        return "one" if "one" in messages[-1].content else "?"

    def answers() -> CloudAnswers:
        return CloudAnswers(Easy(limit=1), FunctionBackend("cloud", only_one), TEMPLATES["plain"], max_tokens=8)

    before, after = answers(), answers()
    assert before.correct(rows("one", "two")) == [True, False]
    after.restore([before.state()])
    assert after.correct(rows("zero", "one", "two")) == [False, True, False]
    assert after.calls == 2 + 1


# --- the device writes the question -------------------------------------------------------------------------------


def test_the_cloud_answers_each_different_message_once_and_no_empty_one() -> None:
    asked: list[str] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        asked.append(messages[0].content)
        return f"<answer>{'7' if '12' in messages[0].content else '0'}</answer>"

    values = {"needed": ["12"], "unneeded": ["Anna"]}
    rows = {"r": Row(id="r", question="I am Anna. What of 12?", gold="7", fields=values)}
    task = Tickets()
    answers = CloudAnswers(task, FunctionBackend("cloud", answer), TEMPLATES["private"], max_tokens=8)
    grade = OutcomeGrader(task, rows, answers, writes_question=True, attributes={"leaks": Judged(leaks())})
    texts = [f"{HANDOFF_TEXT} {message}" for message in ("What of 12?", "12 for Anna?", "What of 12?", "What?", "")]
    found = grade(["r"] * 6, [*texts, "<answer>7</answer>"])
    assert asked == ["What of 12?", "12 for Anna?", "What?"]
    assert [outcome.cloud_correct for outcome in found] == [True, True, True, False, 0.0, None]
    assert [outcome.leakage for outcome in found[:2]] == [Leakage(0, 0, 0), Leakage(1, 1, 0)]
    assert [outcome.violations.get("leaks") for outcome in found] == [0.0, 1.0, 0.0, 0.0, None, None]
    metrics = rollout_metrics([found], [[0.0] * 6])
    assert (metrics["messages/leaking"], metrics["messages/losing"]) == (0.25, 0.25)
    assert metrics["violation/leaks"] == 0.25

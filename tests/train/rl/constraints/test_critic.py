"""Prefix critics in a world where all is known: a Markov chain over eight words in which one pair is forbidden."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from selfroute.backends.torch.critic import Critic, expected, tilted
from selfroute.train.rl.constraints.critic import CriticFit, Places, bernoulli_kl, critic_loss
from selfroute.train.rl.constraints.regulariser import pull

WORDS, LENGTH = 8, 8
BAD = (6, 7)
START = WORDS  # stands before the first word


class World:
    """First-order chain: `step[a, b]` is the log-probability of b behind a, the last row that of the first word."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.step = (1.2 * torch.randn(WORDS + 1, WORDS, dtype=torch.float64)).log_softmax(-1)

    def kept(self, length: int = LENGTH) -> Tensor:
        """R: probability that a text keeps to the rule, by words written and the last of them, (length + 1, V + 1)."""
        p = self.step.exp().clone()
        p[BAD[0], BAD[1]] = 0.0
        found = [torch.ones(WORDS + 1, dtype=torch.float64)]
        for _ in range(length):
            found.append(p @ found[-1][:WORDS])
        return torch.stack(found[::-1])

    def odds(self, length: int = LENGTH) -> Tensor:
        """Log-odds of R behind each next word, by words written and the last of them, (length, V + 1, V)."""
        after = self.kept(length)[1:, None, :WORDS].expand(length, WORDS + 1, WORDS).clone()
        after[:, BAD[0], BAD[1]] = 0.0
        return torch.logit(after.clamp(1e-15, 1 - 1e-15))

    def violation(self, steps: Tensor) -> float:
        """Probability that a chain with log-probabilities (length, V + 1, V) violates the rule; exact."""
        at = functional.one_hot(torch.tensor(START), WORDS + 1).double()
        clean = 1.0
        for step in steps.double().exp():
            allowed = step.clone()
            allowed[BAD[0], BAD[1]] = 0.0
            at = functional.pad(at @ allowed, (0, 1))
            clean = float(at.sum())
        return 1.0 - clean

    def base(self, length: int = LENGTH) -> Tensor:
        return self.step.expand(length, WORDS + 1, WORDS)

    def draw(self, count: int) -> Tensor:
        """Texts, shape (count, LENGTH)."""
        texts = torch.full((count, 1), START)
        for _ in range(LENGTH):
            texts = torch.cat([texts, torch.multinomial(self.step.exp()[texts[:, -1]], 1)], dim=1)
        return texts[:, 1:]


WORLD = World()
RATE = WORLD.violation(WORLD.base())


def sequences(length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(WORDS), repeat=length)))


def of_texts(steps: Tensor, texts: Tensor) -> Tensor:
    """Log-probability of each text under log-probabilities (length, V + 1, V)."""
    before = functional.pad(texts, (1, 0), value=START)[:, :-1]
    return steps[torch.arange(texts.shape[1]), before, texts].sum(1)


def clean(texts: Tensor) -> Tensor:
    return ~((texts[:, :-1] == BAD[0]) & (texts[:, 1:] == BAD[1])).any(1)


def test_with_the_true_critic_the_tilted_model_is_the_conditional() -> None:
    """KL(q* ‖ p(· | C)) over all texts of five words, by enumeration; the bar is 1e-6."""
    length = 5
    texts = sequences(length)
    log_p = of_texts(WORLD.base(length), texts)
    keeps = clean(texts)
    conditional = log_p - log_p[keeps].logsumexp(0)
    log_q = of_texts(tilted(WORLD.base(length), WORLD.odds(length)), texts)
    assert float(log_q[keeps].exp().sum()) == pytest.approx(1.0, abs=1e-9)
    divergence = (log_q[keeps].exp() * (log_q[keeps] - conditional[keeps])).sum()
    assert abs(float(divergence)) <= 1e-6


@pytest.mark.parametrize("allowed", [0.005, 0.02])
def test_a_soft_constraint_is_met_and_a_model_that_keeps_to_it_is_left_alone(allowed: float) -> None:
    start = WORLD.kept()[0, START].expand(LENGTH, WORDS + 1)
    soft = tilted(WORLD.base(), WORLD.odds(), allowed=allowed, start=start)
    assert WORLD.violation(soft) == pytest.approx(allowed, rel=1e-6)
    loose = tilted(WORLD.base(), WORLD.odds(), allowed=0.5, start=start)
    torch.testing.assert_close(loose, WORLD.base(), atol=1e-9, rtol=0)


def test_what_is_expected_is_what_was_said_before() -> None:
    ahead = expected(WORLD.base(), WORLD.odds())
    torch.testing.assert_close(ahead, WORLD.kept()[:-1], atol=1e-9, rtol=0)
    assert float(bernoulli_kl(ahead, WORLD.kept()[:-1]).max()) < 1e-9


# --- a critic that is learned ------------------------------------------------------------------------------------


def states(texts: Tensor) -> Tensor:
    """Hidden states that hold the place and the word before it, shape (N, LENGTH * (V + 1))."""
    before = functional.pad(texts, (1, 0), value=START)[:, :-1]
    return functional.one_hot(before + (WORDS + 1) * torch.arange(LENGTH), LENGTH * (WORDS + 1)).float().flatten(0, 1)


def places(texts: Tensor) -> Places:
    count = len(texts)
    before = torch.arange(count * LENGTH).view(count, LENGTH) - 1
    before[:, 0] = -1
    kept = clean(texts).float()[:, None].expand(-1, LENGTH).flatten()
    log_p = WORLD.step[functional.pad(texts, (1, 0), value=START)[:, :-1]].flatten(0, 1).float()
    return Places(states(texts), texts.flatten(), kept, log_p, before.flatten())


def guided(critic: Critic) -> float:
    """Share of texts that violate the rule when they are drawn with the critic; exact."""
    size = LENGTH * (WORDS + 1)
    odds = critic(torch.eye(size)).view(LENGTH, WORDS + 1, WORDS).detach()
    return WORLD.violation(tilted(WORLD.base().float(), odds))


def fitted(consistency: float = 0.0, *, rounds: int = 60, batch: int = 512) -> Critic:
    torch.manual_seed(1)
    critic = Critic(LENGTH * (WORDS + 1), WORDS, width=32)
    fit = CriticFit(critic, learning_rate=1e-2, passes=4, consistency=consistency)
    for _ in range(rounds):
        fit.fit(places(WORLD.draw(batch)))
    return critic


def released(critic: Critic, data: Places, *, consistency: float = 0.0) -> Tensor:
    """The loss of the code released with arXiv 2205.14219: log σ of the log-odds handed on as if it were log-odds."""
    said = critic(data.hidden).gather(1, data.token[:, None])[:, 0]
    return functional.binary_cross_entropy_with_logits(functional.logsigmoid(said), data.kept)


def test_a_learned_critic_steers_clear_of_what_is_forbidden() -> None:
    assert 0.03 < RATE < 0.06
    assert guided(fitted()) <= RATE / 20


def test_with_the_released_loss_nothing_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfroute.train.rl.constraints.critic.critic_loss", released)
    assert guided(fitted()) > RATE / 20


def test_the_consistency_term_vanishes_at_the_truth() -> None:
    class True_(Critic):
        def forward(self, hidden: Tensor) -> Tensor:
            return (hidden @ WORLD.odds().float().flatten(0, 1)).clamp(-15, 15)

        def of(self, hidden: Tensor, tokens: Tensor) -> Tensor:
            return self(hidden).gather(1, tokens[:, None])[:, 0]

    texts = WORLD.draw(256)  # once a text has broken the rule, these states do not know
    critic, data = True_(LENGTH * (WORDS + 1), WORDS), places(texts[clean(texts)])
    plain, tied = (critic_loss(critic, data, consistency=gamma) for gamma in (0.0, 1.0))
    torch.testing.assert_close(plain, tied, atol=1e-4, rtol=0)


def test_a_fit_goes_on_from_its_state() -> None:
    def stepped(fit: CriticFit, seed: int) -> CriticFit:
        torch.manual_seed(seed)
        fit.fit(places(WORLD.draw(64)))
        return fit

    def new() -> CriticFit:
        torch.manual_seed(3)
        return CriticFit(Critic(LENGTH * (WORDS + 1), WORDS))

    whole = stepped(stepped(new(), 1), 2)
    resumed = new()
    resumed.restore(stepped(new(), 1).state())
    stepped(resumed, 2)
    for one, other in zip(whole.critic.parameters(), resumed.critic.parameters(), strict=True):
        assert torch.equal(one, other)


# --- the pull ----------------------------------------------------------------------------------------------------


def numeric(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    found = torch.zeros_like(at)
    for place in itertools.product(*map(range, at.shape)):
        bump = torch.zeros_like(at)
        bump[place] = step
        found[place] = (function(at + bump) - function(at - bump)).item() / (2 * step)
    return found


def test_the_pull_is_the_divergence_with_a_gradient_through_the_policy_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    odds = torch.randn(2, 5, dtype=torch.float64)
    wanted = tilted(logits.detach().log_softmax(-1), odds)
    pull(logits.log_softmax(-1), odds).sum().backward()

    def fixed(at: Tensor) -> Tensor:
        log_p = at.log_softmax(-1)
        return (wanted.exp() * (wanted - log_p)).sum()

    torch.testing.assert_close(logits.grad, numeric(fixed, logits.detach()), atol=1e-7, rtol=0)
    assert float(pull(WORLD.base(), torch.full_like(WORLD.base(), 3.0)).abs().max()) < 1e-12, "one risk everywhere"


def test_the_odds_of_one_token_are_those_among_all() -> None:
    torch.manual_seed(0)
    critic, hidden, tokens = Critic(6, 9, width=4), torch.randn(20, 6), torch.randint(9, (20,))
    critic.up.weight.data.normal_()
    torch.testing.assert_close(critic.of(hidden, tokens), critic(hidden).gather(1, tokens[:, None])[:, 0])

"""What a policy's seams need of each other and of TRL's config, looked at before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from selfroute.errors import ConfigError
from selfroute.train.rl.behaviour import Behaviour
from selfroute.train.rl.constraints.base import Constraint
from selfroute.train.rl.objectives.base import BY_REFERENCE, NEEDS, Objective, facts_read, is_off_policy
from selfroute.train.rl.options import MStepOptions
from selfroute.train.rl.policy_config import PolicyConfig, check_sums
from selfroute.train.rl.rollouts.base import Rollout

__all__ = ["check_behaviour", "check_facts", "check_objective", "check_seams"]


def check_seams(objective: Objective, constraints: Mapping[str, Constraint], args: PolicyConfig) -> None:
    """See that objective and constraints ask for what there is, under a loss that carries them.

    Raises:
        ConfigError: they do not.
    """
    kind = type(objective).__name__
    if unknown := objective.needs - NEEDS:
        raise ConfigError(f"objective {kind} needs {', '.join(sorted(unknown))}; there are {', '.join(sorted(NEEDS))}")
    for name, constraint in constraints.items():
        if unknown := constraint.needs - {"logits", "hidden"}:
            raise ConfigError(f"constraint {name} needs {', '.join(sorted(unknown))}; there are hidden, logits")
    if objective.sums:
        check_sums(args, kind)


def check_objective(objective: Objective, args: PolicyConfig, m_step: MStepOptions | None, *, adapter: bool) -> None:
    """See that an objective's reference can be had.

    Args:
        adapter: whether the reference is the policy without its adapter.

    Raises:
        ConfigError: it cannot, or would be another distribution's.
    """
    kind, refers = type(objective).__name__, bool(objective.needs & BY_REFERENCE)
    if refers and args.temperature != 1.0:
        raise ConfigError(
            f"temperature: {args.temperature:g} is that of the loss too, and objective {kind} is about the policy's "
            "own probabilities; set it to 1, and behaviour.tempered to draw attempts at others"
        )
    if refers and not adapter and (args.fsdp or args.deepspeed):
        raise ConfigError(
            f"objective {kind} keeps a frozen copy of the model, which is not sharded; train an adapter with lora: {{}}"
        )
    if m_step is not None and not refers:
        raise ConfigError(f"m_step: objective {kind} has no reference to fit; leave it out, or take vargrad_tb")
    if m_step is not None and adapter:
        raise ConfigError(
            "m_step: with lora the reference is the model without its adapter and cannot move; leave one of them out"
        )


def check_facts(objective: Objective, rollout: Rollout) -> None:
    """See that attempts tell what an objective reads of them.

    Raises:
        ConfigError: they do not.
    """
    missing = facts_read(objective) - frozenset(getattr(rollout, "gives", ()))
    if missing:
        kind = getattr(objective, "credit", type(objective).__name__)
        raise ConfigError(
            f"objective: {kind} reads {', '.join(sorted(missing))} of attempts, which {type(rollout).__name__} does "
            "not tell; take algorithm=tree, and for credit=weighted a tree.branching other than random_nodes"
        )


def check_behaviour(behaviour: Behaviour | None, objective: Objective, args: PolicyConfig, *, single: bool) -> None:
    """See that attempts may be drawn as they are to be.

    Args:
        single: whether attempts are the policy's alone, in one turn.

    Raises:
        ConfigError: they may not.
    """
    if behaviour is None:
        return
    used = {"tempered": behaviour.tempered, "replayed": behaviour.replayed}
    name = next((name for name, part in used.items() if part), None)
    if name is None:
        raise ConfigError(
            "behaviour: it changes nothing; set behaviour.tempered or behaviour.replayed, or leave it out"
        )
    if not is_off_policy(objective):
        raise ConfigError(
            f"behaviour.{name}: objective {type(objective).__name__} learns from the policy's own attempts alone; take "
            "vargrad_tb, or leave it out"
        )
    if args.use_vllm or not args.fast_sampler:
        raise ConfigError(f"behaviour.{name}: it needs our sampler; leave out trl.use_vllm and trl.fast_sampler")
    if behaviour.replayed and not single:
        raise ConfigError("behaviour.replayed: attempts in several turns are not kept; leave it out")

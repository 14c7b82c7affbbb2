"""The tables: every strategy, task, backend, algorithm and ledger that a recipe can name.

To add one, write it in a file of its own and add its entry here; commands, recipes, the gateway, the evaluation and
the reference pages read these tables and nothing else.
"""

from __future__ import annotations

from typing import Any, Literal

from selfroute.calls import CALL_FORM
from selfroute.config.entries import (
    AlgorithmEntry,
    BackendEntry,
    Entry,
    LedgerEntry,
    PairsEntry,
    StrategyEntry,
    Table,
    TaskEntry,
    TunerEntry,
)
from selfroute.train.rl.objectives.kinds import OBJECTIVES as OBJECTIVE_KINDS
from selfroute.train.rl.options import ALGORITHMS as METHODS

__all__ = [
    "ALGORITHMS",
    "BACKENDS",
    "CLUSTERS",
    "LEDGERS",
    "LOADS",
    "OBJECTIVES",
    "ORACLES",
    "PAIRS",
    "POLICIES",
    "STRATEGIES",
    "TASKS",
    "TUNERS",
]

TASKS = Table(
    "task",
    TaskEntry(
        name="countdown",
        place="selfroute.tasks.countdown:Countdown",
        drawn=True,
        writer="selfroute.train.imitation.searches:Searches",
    ),
    TaskEntry(
        name="chain",
        place="selfroute.tasks.chain:Chain",
        drawn=True,
        writer="selfroute.train.imitation.calculations:Calculations",
        stepwise=True,
    ),
    TaskEntry(
        name="tickets",
        place="selfroute.tasks.tickets:Tickets",
        drawn=True,
        writer="selfroute.train.imitation.messages:Messages",
    ),
    TaskEntry(name="shop", place="selfroute.tasks.shop:Shop", drawn=True),
    TaskEntry(name="lookup", place="selfroute.tasks.lookup:Lookup", drawn=True),
    TaskEntry(name="game24", place="selfroute.tasks.game24:Game24", extra="eval"),
    TaskEntry(
        name="toolbox",
        place="selfroute.assemble.searching:toolbox",
        example="{toolbox: {tools: [my_tools:forecast]}}",
    ),
    TaskEntry(name="gsm8k", place="selfroute.tasks.gsm8k:GSM8K"),
    TaskEntry(name="math", place="selfroute.tasks.hendrycks_math:HendrycksMath", extra="eval"),
    TaskEntry(name="mmlu", place="selfroute.tasks.mmlu:MMLU"),
    TaskEntry(name="humaneval", place="selfroute.tasks.code:HumanEval"),
    TaskEntry(name="output_prediction", place="selfroute.tasks.code:OutputPrediction"),
    TaskEntry(
        name="reasoning_gym",
        place="selfroute.tasks.reasoning_gym:ReasoningGym",
        example="reasoning_gym:leg_counting",
        extra="tasks",
        drawn=True,
    ),
    TaskEntry(
        name="jsonl",
        place="selfroute.tasks.jsonl:JsonLines",
        example="{jsonl: {path: my-data, verifier: numeric}}",
        extra="eval",
    ),
    TaskEntry(
        name="recorded",
        place="selfroute.tasks.recorded:Recorded",
        example="{recorded: {answers: [device.jsonl, cloud.jsonl]}}",
        extra="eval",
    ),
)

BACKENDS = Table(
    "backend",
    BackendEntry(
        name="embedded",
        place="selfroute.backends.embedded:embedded",
        example="embedded:device",
        check="selfroute.backends.embedded:asset_path",
        files="selfroute.backends.embedded:embedded_files",
        task="selfroute.backends.embedded:embedded_task",
        prompt="selfroute.backends.embedded:embedded_prompt",
        window="selfroute.backends.embedded:embedded_window",
        in_process=True,
    ),
    BackendEntry(
        name="transformers",
        place="selfroute.backends.transformers:TransformersBackend.load",
        example="transformers:path/or/repository",
        check="selfroute.backends.torch.loading:check_folder",
        prompt="selfroute.backends.carried:carried_prompt",
        window="selfroute.backends.files:folder_window",
        in_process=True,
    ),
    BackendEntry(
        name="exits",
        place="selfroute.backends.exits:exits",
        example="exits:OUT/checkpoint",
        check="selfroute.backends.exits:check_exits",
        prompt="selfroute.backends.carried:carried_prompt",
        window="selfroute.backends.files:folder_window",
        in_process=True,
    ),
    BackendEntry(
        name="guided",
        place="selfroute.backends.guided:guided",
        example="{guided: {model: path/or/repository, critic: FILE}}",
        check="selfroute.backends.torch.loading:check_folder",
        prompt="selfroute.backends.carried:carried_prompt",
        in_process=True,
    ),
    BackendEntry(
        name="llama_cpp",
        place="selfroute.backends.llama_cpp:LlamaCppBackend",
        example="llama_cpp:path/to/model.gguf",
        check="selfroute.backends.llama_cpp:check_file",
        prompt="selfroute.backends.carried:carried_prompt",
        identity="selfroute.backends.llama_cpp:file_identity",
        window="selfroute.backends.carried:gguf_window",
        extra="llamacpp",
        in_process=True,
    ),
    BackendEntry(
        name="smollm2",
        place="selfroute.backends.llama_cpp:smollm2",
        files="selfroute.backends.llama_cpp:smollm2_files",
        identity="selfroute.backends.llama_cpp:smollm2_identity",
        window="selfroute.backends.carried:smollm2_window",
        extra="llamacpp",
        in_process=True,
    ),
    BackendEntry(
        name="openai",
        place="selfroute.backends.openai_compatible:OpenAICompatibleBackend",
        example="{openai: {base_url: http://127.0.0.1:8080/v1, model: name, api_key_env: NAME}}",
        remote=True,
    ),
    BackendEntry(
        name="recorded",
        place="selfroute.backends.recorded:RecordedBackend",
        example="recorded:answers.jsonl",
        replays=True,
    ),
    of_path="write transformers:FOLDER, or llama_cpp:FILE.gguf",
)


def _scored(name: str, reads: Literal["question", "answer"], **facts: Any) -> StrategyEntry:
    """A strategy of the catalogue whose score is not fitted; its threshold is set on train rows."""
    facts = {
        "options": "selfroute.config.scored:ScoreOptions",
        "example": f"{{{name}: {{threshold: 0.5}}}}",
        "place": f"selfroute.strategies.catalogue:{name}",
    } | facts
    return StrategyEntry(name=name, reads=reads, **facts)


def _fitted(name: str, reads: Literal["question", "answer"], **facts: Any) -> StrategyEntry:
    """A strategy of the catalogue whose score is fitted on train rows."""
    facts = {
        "options": "selfroute.config.scored:FittedOptions",
        "example": f"{{{name}: {{threshold: 0.5, scorer: {name}.npz}}}}",
        "fit": "selfroute.train.fit.scorer:fit_scorer",
    } | facts
    return _scored(name, reads, **facts)


STRATEGIES = Table(
    "strategy",
    StrategyEntry(name="always_device", place="selfroute.strategies.always:AlwaysDevice", free=True),
    StrategyEntry(name="always_cloud", place="selfroute.strategies.always:AlwaysCloud", free=True),
    StrategyEntry(
        name="random_offload",
        place="selfroute.strategies.random_offload:RandomOffload",
        example="{random_offload: {share: 0.3}}",
        free=True,
    ),
    _scored("prompt_length", "question", free=True),
    _fitted("prompt_router", "question", place="selfroute.strategies.prompt_router:PromptRouter"),
    _fitted("tfidf_ridge", "question"),
    _fitted("embedding_knn", "question", pretrained=True),
    _fitted("embedding_logistic", "question", pretrained=True),
    _fitted("embedding_mlp", "question", pretrained=True),
    _fitted("matrix_factorization", "question", pretrained=True),
    _fitted(
        "encoder_router",
        "question",
        example="{encoder_router: {threshold: 0.5, scorer: encoder_router}}",
        fit="selfroute.train.fit.encoder:fit_encoder",
        stored="selfroute.train.fit.encoder:EncoderScorer.load",
        stored_in_folder=True,
        pretrained=True,
    ),
    _fitted("answer_features", "answer"),
    _fitted("quality_gap", "answer"),
    _fitted("answer_blend", "answer"),
    _fitted("frugal_cascade", "answer"),
    _scored("mean_logprob", "answer"),
    _scored("min_logprob", "answer"),
    _scored("entropy", "answer"),
    _scored(
        "self_consistency",
        "answer",
        options="selfroute.config.scored:SampledOptions",
        example="{self_consistency: {threshold: 0.5, samples: 5}}",
        asks_again=True,
    ),
    _scored("self_verification", "answer"),
    StrategyEntry(name="bandit_router", place="selfroute.strategies.bandit_router:BanditRouter", several=True),
    StrategyEntry(
        name="token_level",
        place="selfroute.strategies.inside.catalogue:token_level",
        example="{token_level: {scorer: max_probability, threshold: 0.5}}",
    ),
    StrategyEntry(
        name="step_level",
        place="selfroute.strategies.inside.catalogue:step_level",
        example="{step_level: {checker: min_probability, threshold: 0.5}}",
    ),
    StrategyEntry(
        name="speculative",
        place="selfroute.strategies.inside.speculative:Speculative",
        example="{speculative: {block: 4}}",
    ),
    StrategyEntry(
        name="early_exit",
        place="selfroute.strategies.inside.catalogue:early_exit",
        example="{early_exit: {thresholds: 0.9}}",
    ),
    StrategyEntry(
        name="split",
        place="selfroute.strategies.inside.catalogue:split",
        example="{split: {place: 1}}",
    ),
    StrategyEntry(
        name="planned",
        place="selfroute.assemble.searching:planned",
        example="{planned: {reward: FOLDER, threshold: 0.0}}",
    ),
    StrategyEntry(
        name="tool_agent",
        place="selfroute.assemble.searching:tool_agent",
        example="{tool_agent: {task: lookup}}",
    ),
    StrategyEntry(
        name="relay",
        place="selfroute.strategies.inside.catalogue:relay",
        example="{relay: {max_cloud_tokens: 64}}",
        policy=True,
        handoff=CALL_FORM,
        without_cloud="always_device",
    ),
    StrategyEntry(
        name="self_route",
        place="selfroute.strategies.self_route:SelfRoute",
        policy=True,
        without_cloud="always_device",
    ),
)

ALGORITHMS = Table(
    "algorithm",
    *(
        AlgorithmEntry(name=name, summary=method.summary, offers_handoff=method.offer_handoff, strategy=method.strategy)
        for name, method in METHODS.items()
    ),
    AlgorithmEntry(
        name="warm_up",
        place="selfroute.assemble.training:warm_up_recipe",
        summary="Make a small model from nothing, by imitating written searches.",
        options="selfroute.config.training:WarmupRecipe",
        no_dry_run="a warm-up makes its own small model",
    ),
    AlgorithmEntry(
        name="reward_head",
        place="selfroute.assemble.heads:reward_head_recipe",
        summary="Fit a head that says which of the device's tokens the cloud would let stand.",
        options="selfroute.config.training:HeadRecipe",
        strategy="{token_level: {head: FOLDER}}",
        leaves="",
        no_dry_run="a head takes seconds once its pair is loaded",
    ),
    AlgorithmEntry(
        name="exits",
        place="selfroute.assemble.exits:exits_recipe",
        summary="Tune exits of a model behind some of its layers, and keep those layers as a device.",
        options="selfroute.config.training:ExitsRecipe",
        offers_handoff=False,
        strategy="early_exit",
        leaves="exits",
        beside="model",
        no_dry_run="exits take seconds once the model is loaded",
    ),
    AlgorithmEntry(
        name="split_policy",
        place="selfroute.assemble.splitting:split_policy_recipe",
        summary="Measure what cuts of a model cost under a lossy link, and make a policy of where to cut it.",
        options="selfroute.config.training:SplitPolicyRecipe",
        offers_handoff=False,
        strategy="{split: {policy: FOLDER}}",
        leaves="",
        beside="model",
        no_dry_run="its measurements take a minute once the model is loaded",
        extra="split",
    ),
    AlgorithmEntry(
        name="reward_model",
        place="selfroute.assemble.reward_models:reward_model_recipe",
        summary="Learn a reward from pairs of answers or trajectories, without labels where a task can be explored.",
        options="selfroute.config.training:RewardRecipe",
        offers_handoff=False,
        strategy="{planned: {reward: FOLDER, threshold: 0.0}}",
        leaves="",
        dry_run="selfroute.assemble.dry_run:reward_dry_run",
    ),
    AlgorithmEntry(
        name="adaswitch",
        place="selfroute.assemble.adaswitch:adaswitch_recipe",
        summary="Teach a device to tag its own steps as right or wrong, and to mend the wrong ones.",
        options="selfroute.config.training:AdaSwitchRecipe",
        offers_handoff=False,
        strategy="{step_level: {checker: tag, tags: FOLDER, threshold: 0.3}}",
        no_dry_run="how much there is to learn is known after its exam",
    ),
)

PAIRS = Table(
    "pairs",
    PairsEntry(
        name="walks",
        place="selfroute.assemble.reward_models:from_walks",
        example="{walks: {rows: 2000}}",
        asks="hindsight",
    ),
    PairsEntry(
        name="answers",
        place="selfroute.assemble.reward_models:from_answers",
        example="{answers: {device: embedded:device}}",
        asks="device",
    ),
    PairsEntry(name="file", place="selfroute.assemble.reward_models:from_file", example="{file: {path: pairs.jsonl}}"),
)

OBJECTIVES = Table(
    "objective",
    *(
        Entry(name=name, place=kind.place, example=kind.example, given=tuple(kind.given))
        for name, kind in OBJECTIVE_KINDS.items()
    ),
)

LEDGERS = Table(
    "ledger",
    LedgerEntry(
        name="memory",
        place="selfroute.budget.memory:MemoryLedger",
        journal="selfroute.budget.journal:MemoryJournal",
        summary="In this process alone, forgotten at its end.",
    ),
    LedgerEntry(
        name="sqlite",
        place="selfroute.budget.sqlite:SQLiteLedger",
        journal="selfroute.budget.sqlite_journal:SQLiteJournal",
        example="sqlite:FILE",
        summary="A file that the processes of one machine share.",
    ),
    LedgerEntry(
        name="redis",
        place="selfroute.budget.redis:RedisLedger",
        journal="selfroute.budget.redis_journal:RedisJournal",
        example="{redis: {url_env: REDIS_URL}}",
        summary="A Redis server that several machines share.",
        extra="redis",
    ),
)


def _planned(name: str, place: str, example: str, given: str, extra: str = "eval") -> Entry:
    """Part of a placement; `given` comes from other keys of its recipe."""
    return Entry(name=name, place=f"selfroute.planning.{place}", example=example, given=(given,), extra=extra)


CLUSTERS = Table(
    "cluster",
    _planned("fat_tree", "cluster:fat_tree", "{fat_tree: {servers: 32}}", "link"),
    _planned("dragonfly", "cluster:dragonfly", "{dragonfly: {servers: 32}}", "link"),
    _planned("edges", "cluster:edge_list", "edges:network.json", "link"),
    _planned("matrix", "cluster:matrix", "matrix:costs.json", "link"),
)

LOADS = Table(
    "load",
    _planned("generated", "load:generated_load", "{generated: {concentration: 0.5}}", "mixture"),
    _planned("sglang", "dumps:read_sglang", "sglang:FILE", "mixture"),
    _planned("vllm", "dumps:read_vllm", "vllm:FILE", "mixture"),
    _planned("measured", "routers:load_measured", "{measured: {model: FOLDER, prompts: FILE}}", "mixture", "train"),
)


ORACLES = Table(
    "oracle",
    Entry(name="leaks", place="selfroute.scores.oracles:leaks"),
    Entry(name="rules", place="selfroute.scores.oracles:rules", example="{rules: {kinds: [email]}}", extra="privacy"),
    Entry(name="words", place="selfroute.scores.oracles:Words", example="{words: {path: FILE}}"),
    Entry(name="profanity", place="selfroute.scores.oracles:profanity", extra="profanity"),
    Entry(name="function", place="selfroute.scores.oracles:function", example="function:my_module:my_function"),
)


def _bandit(name: str, example: str = "") -> Entry:
    """A way to choose among clouds; the program knows the arms, the width of a context and the seed."""
    place = f"selfroute.bandits.catalogue:{name}"
    return Entry(name=name, place=place, example=example, given=("arms", "features", "seed"), extra="bandits")


POLICIES = Table(
    "policy",
    _bandit("fixed", "fixed:ARM"),
    _bandit("uniform"),
    _bandit("greedy"),
    _bandit("epsilon_greedy"),
    _bandit("ucb"),
    _bandit("thompson"),
    _bandit("gaussian_thompson"),
    _bandit("linucb"),
)


def _tuner(name: str, place: str, **facts: Any) -> TunerEntry:
    """A way to tune; the program knows the slots' sizes and the seed."""
    facts = {"given": ("sizes", "seed"), "extra": "tuning"} | facts
    return TunerEntry(name=name, place=f"selfroute.tuning.{place}", **facts)


TUNERS = Table(
    "method",
    _tuner(
        "consensus",
        "worker:Worker",
        kind="team",
        options="selfroute.config.tuning:StepOptions",
        summary="Two levels over unequal workers; its options are the keys of `step`.",
    ),
    _tuner("gradient", "tuners.gradient:Gradient"),
    _tuner("random_search", "tuners.search:RandomSearch"),
    _tuner("best_of", "tuners.search:BestOf", example="{best_of: {candidates: 16}}"),
    _tuner("ridge", "tuners.search:OneHotRidge"),
    _tuner("tpe", "tuners.tpe:TPE", extra="optuna"),
    _tuner("gepa", "tuners.texts:Texts", kind="texts", given=("seed",), extra="gepa"),
)

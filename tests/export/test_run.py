"""`selfroute export`: what it writes, and how it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tests.export.tiny import model, tokenizer
from typer.testing import CliRunner

from selfroute.assemble.exporting import export_source
from selfroute.commands.main import app
from selfroute.errors import SelfRouteError
from selfroute.export import gguf_file
from selfroute.export.run import export
from selfroute.prompts import TEMPLATES

WORDS = tokenizer()
SYSTEM = f"{TEMPLATES['think'].system} {TEMPLATES['think'].help}"


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.output


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a training run."""
    folder = tmp_path / "mine"
    model("llama", WORDS).save_pretrained(folder / "checkpoint")
    WORDS.save_pretrained(folder / "checkpoint")
    recipe = "task: countdown\nalgorithm: task_tuning\nmax_new_tokens: 77\n"
    (folder / "config.yaml").write_text(recipe, encoding="utf-8")
    return folder


def test_a_training_run(trained: Path, tmp_path: Path) -> None:
    from selfroute.backends.torch.loading import load_model

    out = tmp_path / "out"
    code, output = run(trained, "--out", out)
    assert code == 0, output
    assert files(out) == ["Modelfile", "hf", "mine-f16.gguf", "mine-q8_0.gguf"]
    assert all(name in output.replace("\n", "") for name in ("mine-f16.gguf", "Modelfile", "llama.cpp"))
    assert files(tmp_path) == ["mine", "out"], "something is left of the writing"
    text = (out / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./mine-f16.gguf\n# FROM ./mine-q8_0.gguf\n")
    assert f'SYSTEM """{TEMPLATES["think"].system}"""' in text, "trained without the hand-off"
    assert "PARAMETER num_predict 77\n" in text and 'PARAMETER stop "<|im_end|>"\n' in text
    again, words = load_model(out / "hf")
    assert len(words) == len(WORDS)
    assert all(
        (again.state_dict()[name] == weight).all()
        for name, weight in load_model(trained / "checkpoint")[0].named_parameters()
    )


def test_a_part_of_it(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    options = ("--format", "gguf", "--type", "q8_0", "--name", "policy", "--system", "Mine.", "--max-tokens", "9")
    code, output = run(trained / "checkpoint", "--out", out, *options)
    assert code == 0, output
    assert files(out) == ["Modelfile", "policy-q8_0.gguf"]
    text = (out / "Modelfile").read_text(encoding="utf-8")
    assert 'SYSTEM """Mine."""' in text and "num_predict 9\n" in text


def test_only_the_folder_needs_no_gguf(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "gguf")
    assert run(trained, "--out", tmp_path / "out", "--format", "hf")[0] == 0
    assert files(tmp_path / "out") == ["hf"]
    code, output = run(trained, "--out", tmp_path / "other")
    assert code == 2 and "pip install 'selfroute[export]'" in output


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if a package were not installed."""
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == package else find(name, *rest)

    for module in ("selfroute.export.run", "selfroute.assemble.exporting"):
        monkeypatch.setattr(f"{module}.find_spec", find_spec)


@pytest.mark.parametrize("name", ["device", "device-gapg", "cloud"])
def test_an_embedded_model(name: str, tmp_path: Path) -> None:
    code, output = run(f"embedded:{name}", "--out", tmp_path / "out", "--format", "gguf,hf", "--type", "f16")
    assert code == 0, output
    assert files(tmp_path / "out") == ["Modelfile", f"{name}-f16.gguf", "hf"]
    assert "note: " in output and "the longest" in output
    assert (SYSTEM in (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")) == (name != "cloud")
    stored = json.loads((tmp_path / "out" / "hf" / "config.json").read_text(encoding="utf-8"))
    assert stored["dtype"] == "bfloat16", "the weights keep their type"


def test_what_a_run_tells() -> None:
    assert export_source("embedded:device").system == SYSTEM


def test_the_type_in_front_is_the_most_exact(trained: Path, tmp_path: Path) -> None:
    run(trained, "--out", tmp_path / "out", "--type", "q8_0", "--type", "f16")
    assert (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./mine-f16.gguf\n#")


def broken(change: Callable[[dict[str, Any]], object], file: Path) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def refused(*arguments: str | Path) -> str:
    code, output = run(*arguments)
    lines = [line for line in output.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), output
    return lines[0]


def test_what_is_no_model(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "is not a model folder: there is none" in refused(tmp_path / "none", *out)
    assert "it has neither checkpoint/ nor config.json" in refused(tmp_path / "empty", *out)
    assert "no embedded model 'tablet'" in refused("embedded:tablet", *out)
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_be(tmp_path: Path) -> None:
    out = ("embedded:device", "--out", tmp_path / "out")
    assert "--format: no 'onnx'; known: hf, gguf" in refused(*out, "--format", "hf,onnx")
    assert "--type: no 'q4_0'; known: f16, q8_0" in refused(*out, "--type", "q4_0")
    assert "--type: 'f16,' has an empty value" in refused(*out, "--type", "f16,")
    assert "--name: 'a/b' is no file name" in refused(*out, "--name", "a/b")
    assert "three quotation marks" in refused(*out, "--system", 'say """')


def test_a_folder_that_holds_something(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    assert "already holds files; add --force" in refused("embedded:device", "--out", out)
    assert "is a file; name a folder" in refused("embedded:device", "--out", out / "notes.txt")
    for _ in range(2):
        assert run("embedded:device", "--out", out, "--force", "--type", "f16")[0] == 0
    assert files(out) == ["Modelfile", "device-f16.gguf", "hf", "notes.txt"]
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert files(tmp_path) == ["out"]


def test_an_architecture_that_is_not_supported(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "neox")
    WORDS.save_pretrained(tmp_path / "neox")
    assert "unsupported architecture 'gpt_neox'" in refused(tmp_path / "neox", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "neox", "--out", tmp_path / "out", "--format", "hf")[0] == 0


def test_a_splitting_that_llama_cpp_does_not_know(trained: Path, tmp_path: Path) -> None:
    steps = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}]}
    broken(lambda t: t.update(pre_tokenizer=steps), trained / "checkpoint" / "tokenizer.json")
    line = refused(trained, "--out", tmp_path / "out")
    assert "knows no pre-splitting by 'WhitespaceSplit'" in line
    assert files(tmp_path) == ["mine"]
    assert run(trained, "--out", tmp_path / "out", "--format", "hf")[0] == 0


def test_an_adapter_of_no_named_model(trained: Path, tmp_path: Path) -> None:
    """As of a model that came out of a GGUF file."""
    pytest.importorskip("peft", reason="needs peft")
    (trained / "checkpoint" / "adapter_config.json").write_text("{}", encoding="utf-8")
    line = refused(trained / "checkpoint", "--out", tmp_path / "out")
    assert "names no base model; export the run's checkpoint" in line


def test_an_adapter_without_peft(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "peft")
    (trained / "checkpoint" / "adapter_config.json").write_text("{}", encoding="utf-8")
    line = refused(trained, "--out", tmp_path / "out")
    assert "is a LoRA adapter" in line and line.endswith("run: pip install peft")


@pytest.mark.parametrize("part", ["lm_head", "embed_tokens"])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_on_a_tied_matrix_is_merged_as_it_was_trained(part: str, tmp_path: Path) -> None:
    """In the folder and in the GGUF file, whose head is a tensor of its own then."""
    import torch
    from transformers import AutoModelForCausalLM

    peft = pytest.importorskip("peft", reason="peft is not installed; pip install peft")
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    made = model("llama", WORDS)
    made.save_pretrained(base)
    WORDS.save_pretrained(base)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", part], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    adapted.save_pretrained(adapter)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        expected = adapted.eval()(ids).logits
    code, output = run(adapter, "--out", out, "--type", "f16")
    assert code == 0, output
    written = AutoModelForCausalLM.from_pretrained(out / "hf")
    assert written.config.tie_word_embeddings is False
    with torch.no_grad():
        assert torch.allclose(written(ids).logits, expected, atol=1e-3)
    read = {one.name: one.data for one in GGUFReader(out / "adapter-f16.gguf").tensors}
    for name, layer in (("output.weight", written.lm_head), ("token_embd.weight", written.model.embed_tokens)):
        assert torch.equal(torch.tensor(read[name]), layer.weight.detach().half())


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    import torch

    peft = pytest.importorskip("peft", reason="peft is not installed; pip install peft")
    from selfroute.backends.torch.loading import load_model

    base, folder = tmp_path / "base", tmp_path / "run" / "checkpoint"
    source = model("llama", WORDS)
    source.save_pretrained(base)
    WORDS.save_pretrained(base)
    torch.manual_seed(1)
    loaded = load_model(base)[0]
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(loaded, settings)
    adapted.save_pretrained(folder)
    code, output = run(tmp_path / "run", "--out", tmp_path / "out")
    assert code == 0, output
    expected = adapted.merge_and_unload().state_dict()
    for name, weight in load_model(tmp_path / "out" / "hf")[0].state_dict().items():
        torch.testing.assert_close(weight, expected[name])
    assert not torch.equal(
        expected["model.layers.0.self_attn.q_proj.weight"],
        source.state_dict()["model.layers.0.self_attn.q_proj.weight"],
    )


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    source = model("qwen2", WORDS)
    export(source, WORDS, out, name="tiny", types=["f16"])
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(gguf_file.tensors, "encode", fail)
    with pytest.raises(SelfRouteError, match=r"cannot write to '.*out': the disk is full"):
        export(source, WORDS, out, name="tiny", types=["f16"], force=True)
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before
    assert files(tmp_path) == ["out"]
    with pytest.raises(SelfRouteError, match="the disk is full"):
        export(source, WORDS, tmp_path / "new", name="tiny", types=["f16"])
    assert files(tmp_path) == ["out"]


def test_what_a_killed_export_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "out" / ".export-1").mkdir(parents=True)
    assert run("embedded:device", "--out", tmp_path / "out", "--format", "hf")[0] == 0


def test_the_embedding_may_be_larger_than_the_vocabulary(tmp_path: Path) -> None:
    export(model("llama", WORDS, vocab_size=512), WORDS, tmp_path / "out", name="tiny", formats=["gguf"], types=["f16"])
    tokens = GGUFReader(tmp_path / "out" / "tiny-f16.gguf").fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 512 and tokens[-1] == "[PAD511]"

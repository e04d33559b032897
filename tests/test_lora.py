"""LoRA for many tasks: PEFT's arithmetic, what is generated, and what leaves for PEFT and for plain transformers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

import hyperadapt as ha
from families import ENCODER_ONLY, tiny_base
from hyperadapt.backbones import backbone_of
from hyperadapt.backbones.targets import shortest_targets, target_maps
from hyperadapt.conditioning import Inputs
from hyperadapt.errors import UserError
from hyperadapt.methods import Method
from tiny import (
    SMALL,
    TASKS,
    assert_checkpointing_changes_no_gradient,
    gradients,
    redraw,
    row,
    tiny_batch,
    tiny_t5,
)

peft = pytest.importorskip("peft", reason="peft is not installed: pip install hyperadapt[bench]")

HYPER = ha.HyperLoRA(r=4, **SMALL)
BOTH = ha.HyperLoRA(r=4, generated="both", target_modules="all-linear", lora_alpha=6, **SMALL)
LORAS: tuple[Method, ...] = (
    ha.LoRA(r=4),
    ha.SharedLoRA(r=4, use_rslora=True, lora_alpha=3),
    HYPER,
    BOTH,
    ha.Polytropon(n_skills=3, r=4),
)
every_lora = pytest.mark.parametrize(
    "method", LORAS, ids=lambda method: f"{method.name}-{method.r}-{method.lora_alpha}"
)
EXPORTED = ("t5", "bart", "llama", "gemma3", "gpt2", "bert", "modernbert")


def base_of(family: str) -> Any:
    return tiny_t5() if family == "t5" else tiny_base(family)


def adapted(family: str, method: Method) -> Any:
    labels = {"num_labels": {"alpha": 2, "beta": 1, "gamma": 3}} if family in ENCODER_ONLY else {}
    return redraw(ha.adapt(base_of(family), method, TASKS, **labels), std=0.2).eval()


def inputs_of(family: str) -> dict[str, Tensor]:
    batch = tiny_batch(4)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return (
        {**inputs, "decoder_input_ids": batch["labels"].clamp(min=0)} if family in ("t5", "bart") else inputs
    )


def states(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, or of an encoder alone its last states."""
    found = model(**inputs)
    return found.logits if "logits" in found else found.last_hidden_state


def of_adapted(family: str, model: Any, task: str, inputs: dict[str, Tensor]) -> Tensor:
    ids = torch.full((4,), TASKS.index(task))
    if family not in ENCODER_ONLY:
        return model(**inputs, task_ids=ids).logits
    return model(**inputs, task_ids=ids, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("use_rslora", [False, True])
def test_one_task_is_pefts_lora_in_logits_and_gradients(use_rslora: bool) -> None:
    options = {"r": 4, "lora_alpha": 6, "use_rslora": use_rslora, "target_modules": ["q", "v", "wi"]}
    ours = redraw(ha.adapt(tiny_t5(), ha.LoRA(**options), ["one"]), std=0.1)
    theirs = peft.get_peft_model(tiny_t5(), peft.LoraConfig(task_type="SEQ_2_SEQ_LM", **options))
    (lora,) = loras_of(ours)
    with torch.no_grad():
        for path, (a, b) in lora.items():
            module = theirs.base_model.model.get_submodule(path)
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)
    batch = tiny_batch(n_tasks=1)
    theirs.eval()
    of_theirs = theirs(**{name: of for name, of in batch.items() if name != "task_ids"})
    of_ours = ours.eval()(**batch)
    assert (of_ours.logits - of_theirs.logits).abs().max() < 1e-5
    of_ours.loss.backward()
    of_theirs.loss.backward()
    group = ours.hyperadapt.groups["decoder"][0]
    found = group.generators[0].table.grad[0]
    for place, site in enumerate(group.sites):
        module = theirs.base_model.model.get_submodule(site.path)
        expected = torch.cat(
            [module.lora_A["default"].weight.grad.flatten(), module.lora_B["default"].weight.grad.flatten()]
        )
        assert (found[place] - expected).abs().max() < 1e-6


def loras_of(model: Any) -> list[dict[str, tuple[Tensor, Tensor]]]:
    from hyperadapt.export.task_lora import task_loras

    return [lora.maps for lora in task_loras(model, model.tasks)]


def test_a_is_drawn_as_pefts_and_b_begins_at_zero() -> None:
    torch.manual_seed(0)
    wide = tiny_t5(d_model=512, d_kv=64, num_heads=8, num_layers=1)
    theirs = peft.get_peft_model(wide, peft.LoraConfig(r=8, target_modules=["q"])).base_model.model
    expected = theirs.encoder.block[0].layer[0].SelfAttention.q.lora_A["default"].weight.abs()
    for method in (ha.LoRA(), ha.SharedLoRA(), ha.HyperLoRA(), ha.HyperLoRA(generated="both")):
        for a, b in loras_of(
            ha.adapt(tiny_t5(d_model=512, d_kv=64, num_heads=8, num_layers=1), method, TASKS)
        )[0].values():
            assert not b.any()
            assert abs(float(a.abs().mean() / expected.mean()) - 1) < 0.05
            assert abs(float(a.abs().max() / expected.max()) - 1) < 0.01


@every_lora
@torch.no_grad()
def test_it_begins_as_the_base_model(method: Method) -> None:
    batch = tiny_batch()
    expected = tiny_t5()(**{name: of for name, of in batch.items() if name != "task_ids"}).logits
    assert torch.equal(ha.adapt(tiny_t5(), method, TASKS)(**batch).logits, expected)


@pytest.mark.parametrize("generated", ["B", "both"])
def test_it_learns_from_the_first_step(generated: Any) -> None:
    """What makes B has a gradient at once; a step later all has one, embeddings and A too."""
    torch.manual_seed(0)
    model = ha.adapt(tiny_t5(), ha.HyperLoRA(r=4, generated=generated, **SMALL), TASKS).train()
    optimizer = torch.optim.AdamW(model.hyperadapt.parameters(), lr=1e-2)
    losses, at = [], list[dict[str, float]]()
    for _ in range(3):
        loss = model(**tiny_batch()).loss
        losses.append(float(loss))
        loss.backward()
        at.append({name: float(of.abs().max()) for name, of in gradients(model).items()})
        optimizer.step()
        optimizer.zero_grad()
    first = [name for name, most in at[0].items() if most > 1e-6]
    assert {name.rsplit(".", 1)[1] for name in first} >= {"start", "head"}
    assert all(most > 0 for most in at[1].values()), at[1]
    assert losses[0] > losses[1] > losses[2]


@every_lora
def test_mixed_rows_equal_themselves_alone_and_checkpointing_changes_nothing(method: Method) -> None:
    model, batch = adapted("t5", method), tiny_batch()
    if not method.task_conditioned:
        del batch["task_ids"]
    with torch.no_grad():
        logits = model(**batch).logits
        for index in range(len(logits)):
            assert (model(**row(batch, index)).logits[0] - logits[index]).abs().max() < 1e-5
    if method.name != "polytropon":  # it draws skills
        assert_checkpointing_changes_no_gradient(model, batch)


def test_maps_of_unlike_sizes_share_one_trunk_and_those_of_one_size_a_head() -> None:
    model = ha.adapt(tiny_base("llama"), ha.HyperLoRA(r=4, target_modules="all-linear", **SMALL), TASKS)
    groups = model.hyperadapt.groups["decoder"]
    sizes = [{(site.d_in, site.d_out) for site in group.sites} for group in groups]
    assert all(len(size) == 1 for size in sizes)
    assert len(set.union(*sizes)) == len(groups) > 2
    assert len(model.hyperadapt.conditioning.stacks) == 1
    heads = [group.generators[-1].head for group in groups]
    assert [head.shape[1] // 4 for head in heads] == [next(iter(size))[1] for size in sizes]


def test_dropout_drops_what_a_reads_in_training_alone() -> None:
    model = redraw(ha.adapt(tiny_t5(), ha.LoRA(r=4, lora_dropout=0.5), TASKS))
    batch = tiny_batch()
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, model(**batch).logits)
        torch.manual_seed(0)
        one, other = model.train()(**batch).logits, model(**batch).logits
        assert not torch.equal(one, other)


# --- target_modules


def targeted(base: Any, targets: Any) -> list[str]:
    found = target_maps(backbone_of(base), base, targets)
    return [site.path for of_stack in found.values() for site in of_stack]


@pytest.mark.parametrize("family", EXPORTED)
@pytest.mark.parametrize("targets", [None, "all-linear", r".*\.1\..*"])
def test_targets_are_pefts(family: str, targets: Any) -> None:
    """The same maps as PEFT's defaults, its word for all, and a regular expression; and back to the shortest names."""
    base = base_of(family)
    if targets and targets != "all-linear":
        maps = [
            site.path
            for of_stack in target_maps(backbone_of(base), base, "all-linear").values()
            for site in of_stack
        ]
        targets = "|".join(path.replace(".", r"\.") for path in maps if ".1." in path)
    found = [
        site.path for of_stack in target_maps(backbone_of(base), base, targets).values() for site in of_stack
    ]
    options = {"target_modules": targets} if targets else {}
    if family == "modernbert" and not targets:
        options = {"target_modules": ["Wqkv"]}  # PEFT has no default for it
    if family == "gpt2" and targets == "all-linear":
        options = {"target_modules": ["c_attn", "c_proj", "c_fc"]}
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=2, **options)).base_model.model
    expected = [
        name
        for name, module in theirs.named_modules()
        if getattr(module, "lora_A", None) and not name.startswith("pooler.")  # heads take its place
    ]
    assert sorted(found) == sorted(expected)
    fresh = base_of(family)
    assert sorted(targeted(fresh, shortest_targets(fresh, found))) == sorted(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["q", "vv"]}, "there is no module 'vv'; did you mean 'v'?"),
        ({"target_modules": "q_proj"}, "the regular expression 'q_proj' matches no whole path"),
        ({"target_modules": "["}, "'\\[' is no regular expression"),
        ({"target_modules": []}, "target_modules: none is named; choices: q, k, v, o"),
        ({"target_modules": ["SelfAttention"]}, "SelfAttention is no linear map but a T5Attention; "),
        ({"target_modules": ["lm_head"]}, "lm_head lies outside the blocks"),
        (
            {"r": 40},
            "rank 40 is larger than a side of encoder.block.0.layer.0.SelfAttention.q, which maps 32 to 32",
        ),
    ],
)
def test_wrong_targets_and_ranks_are_one_line_and_change_nothing(
    options: dict[str, Any], message: str
) -> None:
    base = tiny_t5()
    for method in (ha.LoRA, ha.HyperLoRA, ha.Polytropon):
        with pytest.raises(UserError, match=message):
            ha.adapt(base, method(**options), TASKS)
    assert type(base).__mro__[1].__name__ != "AdaptedModel"
    assert all(parameter.requires_grad for parameter in base.parameters())


# --- leaving


@pytest.mark.parametrize("family", EXPORTED)
@torch.no_grad()
def test_peft_computes_the_same_with_what_is_exported(family: str, tmp_path: Path) -> None:
    inputs = inputs_of(family)
    for number, method in enumerate(LORAS):
        if family in ("bart", "modernbert") and number not in (2, 3):
            continue
        model = adapted(family, method)
        expected = of_adapted(family, model, "beta", inputs)
        place = model.export("beta", tmp_path / str(number))
        theirs = peft.PeftModel.from_pretrained(base_of(family), place).eval()
        assert (states(theirs, inputs) - expected).abs().max() < 1e-5
        assert (states(base_of(family), inputs) - expected).abs().max() > 1e-3
        if family in ENCODER_ONLY:
            head = load_file(place / "head.safetensors")
            mask = inputs["attention_mask"].unsqueeze(2)
            pooled = (states(theirs, inputs) * mask).sum(1) / mask.sum(1)
            logits = model(**inputs, task_ids=torch.ones(4, dtype=torch.long)).logits[:, :1]
            assert (pooled @ head["weight"].T + head["bias"] - logits).abs().max() < 1e-5


@pytest.mark.parametrize("family", EXPORTED)
@torch.no_grad()
def test_a_merged_model_is_a_plain_one_that_computes_the_same(family: str, tmp_path: Path) -> None:
    inputs, model = inputs_of(family), adapted(family, BOTH)
    expected = of_adapted(family, model, "gamma", inputs)
    before = {name: of.clone() for name, of in model.state_dict().items()}
    plain = model.merge_and_unload("gamma")
    assert type(plain) is type(base_of(family))
    assert (states(plain, inputs) - expected).abs().max() < 1e-5
    plain.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} <= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    again = type(plain).from_pretrained(tmp_path, **backbone_of(plain).loading).eval()
    assert (states(again, inputs) - expected).abs().max() < 1e-5
    assert all(torch.equal(of, before[name]) for name, of in model.state_dict().items())
    assert torch.equal(of_adapted(family, model, "gamma", inputs), expected)


@torch.no_grad()
def test_a_merged_decoder_generates_and_full_fine_tuning_merges_to_itself(tmp_path: Path) -> None:
    model, inputs = adapted("llama", HYPER), inputs_of("llama")
    inputs = {name: of[:1] for name, of in inputs.items()}
    expected = model.generate(**inputs, task_ids=torch.tensor([1]), max_new_tokens=5, do_sample=False)
    plain = model.merge_and_unload("beta")
    assert torch.equal(plain.generate(**inputs, max_new_tokens=5, do_sample=False), expected)
    plain.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.generate(**inputs, max_new_tokens=5, do_sample=False), expected)
    whole = ha.adapt(tiny_base("gpt2"), ha.FullFineTuning(), TASKS)
    assert type(whole.merge_and_unload("alpha")) is GPT2LMHeadModel


def test_the_configuration_has_pefts_fields(tmp_path: Path) -> None:
    adapted("gpt2", ha.HyperLoRA(r=4, lora_alpha=16, use_rslora=True, **SMALL)).export(
        "alpha", tmp_path / "x"
    )
    config = json.loads((tmp_path / "x/adapter_config.json").read_text())
    assert config["target_modules"] == ["c_attn"]
    # 16 / sqrt(4), in the way that all servers read.
    assert (config["lora_alpha"] / config["r"], config["use_rslora"]) == (8, False)
    assert (config["fan_in_fan_out"], config["r"]) == (True, 4)
    fields = vars(peft.LoraConfig())
    assert set(config) <= set(fields)


def test_the_commands_of_servers_name_every_tasks_folder(tmp_path: Path) -> None:
    from hyperadapt.export import export_all, serving_commands

    model = adapted("llama", ha.HyperLoRA(r=12, **SMALL))
    folders = export_all(model, tmp_path / "my loras")
    assert {folder.name for folder in folders.values()} == set(TASKS)
    lines = serving_commands(model, folders)
    assert (tmp_path / "my loras/serving.txt").read_text().splitlines() == lines
    (vllm,) = [shlex.split(line) for line in lines if line.startswith("vllm serve")]
    assert vllm[vllm.index("--max-lora-rank") + 1] == "16"
    assert vllm[vllm.index("--lora-modules") + 1 :] == [
        f"{task}={folder}" for task, folder in folders.items()
    ]
    (request,) = [shlex.split(line) for line in lines if line.startswith("curl")]
    assert json.loads(request[-1])["parameters"]["adapter_id"] == str(folders["alpha"])


def test_a_task_whose_name_is_a_path_is_not_exported_beside_others(tmp_path: Path) -> None:
    from hyperadapt.export import export_all

    model = ha.adapt(tiny_t5(), HYPER, ["one", "../two"])
    with pytest.raises(UserError, match=r"task '\.\./two' cannot name a folder"):
        export_all(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperadapt.export import FORMATS, export_all

    whole = FORMATS["peft"]

    def failing(model: Any) -> Any:
        write = whole(model)

        def second_fails(lora: Any, directory: Path) -> None:
            if lora.task == "beta":
                raise OSError(28, "No space left on device")
            write(lora, directory)

        return second_fails

    monkeypatch.setitem(FORMATS, "peft", failing)
    with pytest.raises(UserError, match="No space left"):
        export_all(adapted("t5", HYPER), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_no_lora_is_not_exported_and_nothing_is_written(tmp_path: Path) -> None:
    model = ha.adapt(tiny_t5(), ha.HyperFormerPlusPlus(reduction_factor=8, **SMALL), TASKS)
    for refused in (lambda: model.export("alpha", tmp_path / "x"), lambda: model.merge_and_unload("alpha")):
        with pytest.raises(
            UserError, match=r"hyperformer\+\+ makes no LoRA, as polytropon, lora, .* do; keep_tasks"
        ):
            refused()
    model = ha.adapt(tiny_t5(), HYPER, TASKS)
    with pytest.raises(UserError, match="no task 'alpa'; did you mean 'alpha'"):
        model.export("alpa", tmp_path / "x")
    with pytest.raises(UserError, match="format 'pfet' is unknown; did you mean 'peft'"):
        model.export("alpha", tmp_path / "x", format="pfet")
    with pytest.raises(UserError, match=r"format 'merged' is no LoRA: merge_and_unload\(task\)"):
        model.export("alpha", tmp_path / "x", format="merged")
    with pytest.raises(UserError, match="merge_and_unload takes one task"):
        model.merge_and_unload()
    with torch.no_grad():
        model.shared.weight[3] += 1
    with pytest.raises(UserError, match="1 of the base model's own tensors are no longer what they were"):
        model.export("alpha", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine").touch()
    with pytest.raises(UserError, match="is not empty"):
        ha.adapt(tiny_t5(), HYPER, TASKS).export("alpha", tmp_path / "x")


def test_maps_that_read_embeddings_of_positions_stay_as_they_are_and_rows_of_deberta_equal_themselves_alone() -> (
    None
):
    batch = tiny_batch(4)
    for method in (HYPER, ha.LoRA(r=4), ha.Polytropon(n_skills=3, r=4, allocation="softmax"), BOTH):
        model = adapted("deberta", method)
        paths = [site.path for group in model.hyperadapt.site_groups() for site in group.sites]
        assert not any(path.endswith(("query_proj", "key_proj")) for path in paths)
        assert any(path.endswith("value_proj") for path in paths)
        with torch.no_grad():
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "task_ids")}
            logits = model(**inputs).logits
            for index in range(4):
                assert (model(**row(inputs, index)).logits[0] - logits[index]).abs().max() < 1e-5
    with pytest.raises(UserError, match="query_proj reads embeddings of positions too, which are no task's"):
        ha.adapt(
            tiny_base("deberta"),
            ha.LoRA(target_modules=["query_proj"]),
            TASKS,
            num_labels=dict.fromkeys(TASKS, 2),
        )


def test_berts_pooler_is_neither_a_target_nor_named_to_peft(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = adapted("bert", ha.LoRA(r=4, target_modules=["query", "dense"]))
    place = model.export("alpha", tmp_path / "x")
    theirs = peft.PeftModel.from_pretrained(tiny_base("bert"), place)
    assert not hasattr(theirs.base_model.model.pooler.dense, "lora_A")
    assert not [warning for warning in recwarn if "missing adapter keys" in str(warning.message)]


def test_dropout_is_the_same_when_activations_are_recomputed() -> None:
    found = []
    for checkpointed in (False, True):
        model = adapted("t5", ha.LoRA(r=4, lora_dropout=0.5)).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        model(**tiny_batch(), use_cache=False).loss.backward()
        found.append(gradients(model))
    for name, of in found[0].items():
        assert torch.allclose(of, found[1][name], atol=1e-6), name


def test_tasks_are_added_and_polytropons_old_option_is_read() -> None:
    model = adapted("t5", HYPER)
    model.add_task("delta", init_from="beta")
    made = model.hyperadapt.generate(Inputs("decoder", torch.tensor([1, 3]), torch.tensor([1, 3])))
    assert all(torch.equal(of[0], of[-1]) for weights in made.weights for of in weights.values())
    assert ha.Polytropon(rank=3) == ha.Polytropon(r=3)

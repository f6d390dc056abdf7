import math

import pytest

from templora_memory import Learning, Policy, ResolvedLearning, ResolvedPolicy, Sampling
from templora_memory.domain.settings import ModelLimits
from templora_memory.errors import InvalidSetting

BAD = [0, -1, math.nan, math.inf, True, "4", [4]]


@pytest.mark.parametrize("value", [*BAD, 2.5])
@pytest.mark.parametrize(
    "name", ["window", "reply_tokens", "chunk", "keep_turns", "keep_revisions"]
)
def test_a_policy_refuses_what_is_no_positive_whole_number(name, value):
    with pytest.raises(InvalidSetting, match=name):
        Policy(**{name: value})


@pytest.mark.parametrize("value", BAD)
def test_a_lifetime_is_positive(value):
    with pytest.raises(InvalidSetting, match="ttl"):
        Policy(ttl=value)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    "name", ["r", "steps_per_chunk", "lora_alpha", "learning_rate", "adam_epsilon", "max_grad_norm"]
)
def test_learning_refuses_what_is_not_positive(name, value):
    if (name, value) == ("learning_rate", None):
        assert Learning(learning_rate=None).learning_rate is None  # derived from the model's width
        return
    with pytest.raises(InvalidSetting, match=f"learning.{name}"):
        Learning(**{name: value})


@pytest.mark.parametrize(
    "name", ["r", "steps_per_chunk", "lora_alpha", "adam_epsilon", "max_grad_norm"]
)
def test_only_what_the_model_decides_may_be_left_open(name):
    with pytest.raises(InvalidSetting, match=f"learning.{name} is None"):
        Learning(**{name: None})


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan, True, None, "x"])
@pytest.mark.parametrize("name", ["lora_dropout", "adam_beta1", "adam_beta2"])
def test_shares_lie_between_zero_and_one(name, value):
    with pytest.raises(InvalidSetting, match=f"learning.{name}"):
        Learning(**{name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"context": -1}, {"context": 2.5}, {"weight_decay": -1}, {"lr_scheduler_type": "cosine"},
        {"target_modules": "everything"}, {"target_modules": ()}, {"target_modules": ["q_proj"]},
        {"target_modules": (1,)},
        {"layers_to_transform": "lower-half"}, {"layers_to_transform": ()},
        {"layers_to_transform": ("1",)}, {"layers_to_transform": [1]},
        {"layers_to_transform": (True,)}, {"layers_to_transform": (0.5,)},
        {"stop_loss": -0.1}, {"stop_loss": None},
        {"seed": 0.5}, {"seed": None},
    ],
)  # fmt: skip
def test_other_learning_settings_are_checked(changes):
    with pytest.raises(InvalidSetting, match=f"learning.{next(iter(changes))}"):
        Learning(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1}, {"temperature": math.nan}, {"temperature": None}, {"top_p": 0},
        {"top_p": 1.1}, {"top_k": -1}, {"top_k": 1.5}, {"repetition_penalty": 0},
        {"seed": "x"}, {"seed": 2**63}, {"min_p": 1.1}, {"min_p": -0.1},
        {"frequency_penalty": math.inf}, {"presence_penalty": "x"}, {"logprobs": 21},
        {"logprobs": -1}, {"logprobs": 1.5},
        {"stop": "end"}, {"stop": ("",)}, {"stop": (5,)},
    ],
)  # fmt: skip
def test_sampling_is_checked(changes):
    with pytest.raises(InvalidSetting, match=next(iter(changes))):
        Sampling(**changes)


def test_a_chunk_larger_than_the_window_is_refused():
    with pytest.raises(InvalidSetting, match="more than the window"):
        Policy(window=64, chunk=65)
    with pytest.raises(InvalidSetting, match="more than the window"):
        Policy(chunk=65).resolve(ModelLimits(max_length=64))


def test_a_reply_that_leaves_no_room_is_refused():
    with pytest.raises(InvalidSetting, match="no room is left"):
        Policy(window=64, reply_tokens=64)
    with pytest.raises(InvalidSetting, match="no room is left"):
        Policy(reply_tokens=64).resolve(ModelLimits(max_length=64))


def test_a_window_larger_than_the_model_is_refused():
    with pytest.raises(InvalidSetting, match="trained with 64"):
        Policy(window=65).resolve(ModelLimits(max_length=64))


def test_a_window_too_small_for_anything_is_refused():
    with pytest.raises(InvalidSetting, match="at least 16"):
        Policy(window=8).resolve(ModelLimits(max_length=64))


@pytest.mark.parametrize("context", [16, 17, 100, 2048, 1_000_000])
def test_resolving_fills_in_everything(context):
    policy = Policy().resolve(ModelLimits(max_length=context))
    assert policy.reply_tokens < policy.window <= context
    assert 0 < policy.chunk <= policy.window
    assert policy.learning.context < policy.window
    assert policy.learning.learning_rate > 0
    assert policy.resolve(ModelLimits(max_length=context)) == policy
    assert (type(policy), type(policy.learning)) == (ResolvedPolicy, ResolvedLearning)


def test_a_change_to_resolved_settings_is_checked_and_stays_resolved():
    policy = Policy().resolve(ModelLimits(max_length=512))
    changed = policy.changed(window=256, learning={"r": 8})
    assert isinstance(changed, ResolvedPolicy)
    assert isinstance(changed.learning, ResolvedLearning)
    assert (changed.window, changed.learning.r) == (256, 8)
    with pytest.raises(InvalidSetting, match="window"):
        policy.changed(window=0)


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"windows": 5}, "'windows'"), ({"learning": {"rnk": 5}}, "'learning.rnk'")],
)
def test_an_unknown_setting_is_named(changes, name):
    with pytest.raises(InvalidSetting, match=name):
        Policy().changed(**changes)
    with pytest.raises(InvalidSetting, match=name):
        Policy.preset("default", **changes)


def test_an_unknown_preset_or_recipe_is_named():
    with pytest.raises(InvalidSetting, match="'fast'"):
        Policy.preset("fast")
    with pytest.raises(InvalidSetting, match="'magic'"):
        Policy(recipe="magic").resolve(ModelLimits(max_length=64))
    with pytest.raises(InvalidSetting, match="recipe is ''"):
        Policy(recipe="")


def test_a_backend_may_know_recipes_of_its_own():
    limits = ModelLimits(max_length=64, recipes=("magic",))
    assert Policy(recipe="magic").resolve(limits).recipe == "magic"


def test_a_mapping_changes_single_learning_settings():
    changed = Policy.preset("reference").changed(learning={"r": 8})
    assert (changed.learning.r, changed.learning.learning_rate) == (8, 5e-5)


def test_the_reference_preset_is_the_released_algorithm():
    learning = Policy.preset("reference").learning
    assert (learning.r, learning.lora_alpha, learning.lora_dropout, learning.steps_per_chunk) == (
        64,
        64,
        0.05,
        2,
    )
    assert (learning.learning_rate, learning.adam_epsilon, learning.context) == (5e-5, 1e-7, 1024)
    assert learning.context_gradient
    assert learning.carry_optimizer
    assert learning.lr_scheduler_type == "released"


def test_the_scale_follows_rank_and_alpha():
    assert Learning(r=16, lora_alpha=32).scale == 2
    assert Learning(r=16, lora_alpha=32, use_rslora=True).scale == 8


@pytest.mark.parametrize("schema", ["", "{", "[]", "3", 5])
def test_a_schema_is_the_text_of_a_json_object(schema):
    with pytest.raises(InvalidSetting, match="JSON schema"):
        Sampling(schema=schema)


@pytest.mark.parametrize(
    ("family", "width", "rate"),
    [
        ("llama", 576, 1.3e-3),
        ("llama", 4096, 2.9e-4),
        ("qwen3", 1024, 5.3e-4),
        ("qwen2", 4096, 4.7e-4),
        ("never heard of", 4096, 2.9e-4),
        (None, 2000, 5e-4),
    ],
)
def test_the_rate_falls_with_the_width_as_its_family_does(family, width, rate):
    limits = ModelLimits(max_length=512, hidden_size=width, model_type=family)
    assert Policy().resolve(limits).learning.learning_rate == pytest.approx(rate)


def test_a_rate_that_is_given_stays():
    limits = ModelLimits(max_length=512, hidden_size=576, model_type="qwen3")
    policy = Policy().changed(learning={"learning_rate": 1e-4}).resolve(limits)
    assert policy.learning.learning_rate == 1e-4

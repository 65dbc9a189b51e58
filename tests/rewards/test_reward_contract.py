"""The reward contract: found among the callbacks, listed in YAML from any package, summed, and failing loudly."""

import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from avrt.config.class_paths import allowed_prefixes, enforce
from avrt.rewards import (
    AccuracyReward,
    FormatReward,
    LengthReward,
    RewardCallback,
    RewardError,
    collect_rewards,
    compute_rewards,
)
from avrt.sample import Completion, Sample


def completion(sample_id: str, text: str = "") -> Completion:
    return Completion(Sample(id=sample_id, question="?", options=("cat", "dog"), answer=0), text)


class Fixed(RewardCallback):
    """Returns what it was given, whatever it scores."""

    def __init__(self, name, values, weight=1.0):
        super().__init__(weight=weight, name=name)
        self.values = values

    def score(self, completions):
        return self.values


class FailsOn(RewardCallback):
    name = "picky"

    def __init__(self, bad_id):
        super().__init__()
        self.bad_id = bad_id

    def score(self, completions):
        return [{"good": 1.0}["bad" if item.sample.id == self.bad_id else "good"] for item in completions]


class NeedsTwo(RewardCallback):
    name = "pairwise"

    def score(self, completions):
        if len(completions) > 1:
            raise ArithmeticError("cannot compare")
        return [0.0]


def test_rewards_are_found_in_order_among_other_callbacks():
    accuracy, length = AccuracyReward(), LengthReward()
    assert collect_rewards([TQDMProgressBar(), accuracy, Callback(), length]) == [accuracy, length]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Callback()], "trainer.callbacks lists no reward: add"),
        ([AccuracyReward(), AccuracyReward()], "two rewards are called 'accuracy'.* name"),
        ([RewardCallback()], "RewardCallback has no name"),
        ([AccuracyReward(weight=math.nan)], "weight of reward 'accuracy' is nan"),
        ([AccuracyReward(weight=math.inf)], "weight of reward 'accuracy' is inf"),
        ([AccuracyReward(weight="2")], "weight of reward 'accuracy' is '2'"),
        ([AccuracyReward(weight=10**400)], "weight of reward 'accuracy' is a whole number of 1329 bits"),
        ([AccuracyReward(weight=1e39)], r"weight of reward 'accuracy' is 1e\+39"),
    ],
)
def test_what_cannot_be_trained_with_is_refused(callbacks, message):
    with pytest.raises(ValueError, match=message) as caught:
        collect_rewards(callbacks)
    assert "trainer.callbacks" in str(caught.value)


def test_a_second_name_lets_one_reward_appear_twice():
    rewards = collect_rewards([LengthReward(), LengthReward(mu=50, name="short")])
    assert [reward.name for reward in rewards] == ["length", "short"]


def test_the_sum_is_weighted():
    table = compute_rewards(
        [Fixed("a", [1.0, 0.0], weight=2.0), Fixed("b", [0.25, 0.5], weight=-1.0)], [completion("x")] * 2
    )
    assert list(table.by_name) == ["a", "b"]
    assert table.by_name["a"].dtype == table.total.dtype == torch.float32
    assert table.by_name["a"].tolist() == [1.0, 0.0]
    assert table.total.tolist() == [1.75, -0.5]


def test_a_reward_that_does_not_apply_adds_nothing_and_none_at_all_gives_nan():
    nan = math.nan
    rewards = [Fixed("a", [1.0, nan, nan]), Fixed("b", [nan, 0.5, nan]), Fixed("logged", [nan, 9.0, nan], weight=0.0)]
    table = compute_rewards(rewards, [completion("x")] * 3)
    assert table.total[:2].tolist() == [1.0, 0.5]
    assert table.total[2].isnan()
    assert table.by_name["a"].isnan().tolist() == [False, True, True]


def test_the_three_shipped_rewards_together():
    good = "<think>" + "word " * 100 + "</think><answer>A</answer>"
    table = compute_rewards(
        [FormatReward(), AccuracyReward(), LengthReward()], [completion("x", good), completion("x", "A")]
    )
    assert table.total.tolist() == [3.0, 0.0]
    assert list(table.by_name) == ["format", "accuracy", "length"]


@pytest.mark.parametrize(
    "values",
    [
        [1, 0],
        (True, False),
        np.array([1.0, 0.0]),
        np.array([True, False]),
        [np.True_, np.False_],
        [np.float16(1), np.int8(0)],
        torch.tensor([1.0, 0.0]),
        torch.tensor([True, False]),
    ],
    ids=repr,
)
def test_any_sequence_of_numbers_will_do(values):
    assert compute_rewards([Fixed("a", values)], [completion("x"), completion("y")]).total.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "'mine': score.. returned 1 values for 2 completions"),
        ([1.0] * 3, "'mine': score.. returned 3 values for 2 completions"),
        (None, "'mine': score.. returned None for 2 completions"),
        (0.5, "'mine': score.. returned 0.5 for 2 completions"),
        ([1.0, None], "'mine': score.. returned None for sample 'y'"),
        (["1.0", 1.0], "'mine': score.. returned '1.0' for sample 'x'"),
        ([1.0, math.inf], "'mine': score.. returned inf for sample 'y'"),
        ([1.0, 1e39], r"'mine': score.. returned 1e\+39 for sample 'y'"),
        ([1.0, np.float64(-1e39)], r"'mine': score.. returned .*-1e\+39.* for sample 'y'"),
        ([1.0, 10**400], "'mine': score.. returned a whole number of 1329 bits for sample 'y'"),
        ([1.0, 10**5000], "'mine': score.. returned a whole number of 16610 bits for sample 'y'"),
        ([1.0, np.array([1.0, 2.0])], "'mine': score.. returned array.* for sample 'y'"),
        ([[1.0], [0.0]], "'mine': score.. returned .1.0. for sample 'x'"),
    ],
)
def test_wrong_results_name_the_reward(values, message):
    with pytest.raises(RewardError, match=message):
        compute_rewards([Fixed("mine", values)], [completion("x"), completion("y")])


def test_a_sum_beyond_float32_is_refused():
    """It would be infinite, and its whole group would get advantage 0."""
    rewards = [Fixed("one", [0.0, 3e38], weight=10.0), Fixed("two", [0.0, 1.0])]
    with pytest.raises(RewardError, match=r"sample 'y'.*one 3e\+38 x 10.*two 1 x 1"):
        compute_rewards(rewards, [completion("x"), completion("y")])


def test_terms_beyond_float32_of_both_signs_are_refused():
    """Their sum would be NaN, and the completion left out as if no reward applied to it."""
    rewards = [Fixed("one", [0.0, 3e38], weight=10.0), Fixed("two", [0.0, -3e38], weight=10.0)]
    with pytest.raises(RewardError, match=r"sample 'y'.*one 3e\+38 x 10.*two -3e\+38 x 10"):
        compute_rewards(rewards, [completion("x"), completion("y")])


def test_an_exception_names_the_reward_the_sample_and_the_place():
    with pytest.raises(RewardError) as caught:
        compute_rewards([AccuracyReward(), FailsOn("y")], [completion("x"), completion("y"), completion("z")])
    message = str(caught.value)
    assert "reward 'picky' failed on sample 'y': KeyError: 'bad'" in message
    assert "test_reward_contract.py:" in message
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_of_the_batch_as_a_whole_names_all_its_samples():
    with pytest.raises(RewardError, match="'pairwise' failed on samples 'x', 'y': ArithmeticError: cannot compare"):
        compute_rewards([NeedsTwo()], [completion("x"), completion("y"), completion("x")])


def test_scoring_without_rewards_is_refused():
    with pytest.raises(ValueError, match=r"trainer\.callbacks"):
        compute_rewards([], [completion("x")])


def test_no_completions_give_empty_tensors():
    assert compute_rewards([AccuracyReward()], []).total.shape == (0,)


def test_rewards_are_listed_in_yaml_from_any_installed_package(tmp_path, monkeypatch):
    (tmp_path / "somebodys_package.py").write_text(
        "from avrt.rewards import RewardCallback\n"
        "class Brief(RewardCallback):\n"
        '    name = "brief"\n'
        "    def score(self, completions):\n"
        "        return [float(len(c.text) < 5) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    enforce(allowed_prefixes(["somebodys_package"]))
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    config = parser.parse_string(
        "callbacks:\n"
        "- class_path: avrt.rewards.LengthReward\n"
        "  init_args: {bonus: 0.1, weight: 0.5}\n"
        "- class_path: avrt.rewards.accuracy.AccuracyReward\n"
        "- class_path: somebodys_package.Brief\n"
        "  init_args: {weight: 2.0}\n"
    )
    rewards = collect_rewards(parser.instantiate_classes(config).callbacks)
    assert [(reward.name, reward.weight) for reward in rewards] == [("length", 0.5), ("accuracy", 1.0), ("brief", 2.0)]
    assert compute_rewards(rewards, [completion("x", "hi")]).total.tolist() == [2.0]


def test_the_example_in_the_documentation_works(tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    listings = re.findall(r"```yaml\ntrainer:\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)  # the README has another package of this name
    enforce(allowed_prefixes(["my_rewards"]))
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    shipped, own = (
        collect_rewards(parser.instantiate_classes(parser.parse_string(listing)).callbacks) for listing in listings
    )
    assert [reward.name for reward in shipped] == ["format", "accuracy", "length"]
    assert compute_rewards(own, [completion("x", "Maybe A"), completion("x", "A")]).total.tolist() == [0.0, 0.5]


def test_rewards_keep_no_state_and_survive_pickling_with_their_trainer():
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[FormatReward(), LengthReward(bonus=0.1)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rewards = collect_rewards(pickle.loads(pickle.dumps(trainer)).callbacks)
    assert [reward.name for reward in rewards] == ["format", "length"]
    assert rewards[1].bonus == 0.1
    assert all(reward.state_dict() == {} for reward in rewards)

"""Values in time, beside a model that keeps every moment whole."""

from __future__ import annotations

import random

import pytest

from pyvmm.observe.debug.versions import Versions


def test_a_value_holds_until_the_next() -> None:
    versions = Versions("none")
    versions.put(3, {1: "a"})
    versions.put(7, {1: "b", 2: "c"})
    assert [versions.at(1, moment) for moment in (0, 2, 3, 6, 7, 99)] == ["none", "none", "a", "a", "b", "b"]
    assert versions.latest(2) == "c"
    assert versions.latest(9) == "none"
    assert versions.between(3, 6) == set()
    assert versions.between(99, 3) == {1, 2}
    assert versions.all(5) == {1: "a"}
    assert versions.count == 3


@pytest.mark.parametrize("seed", range(10))
def test_beside_a_model(seed: int) -> None:
    generator = random.Random(seed)
    alive: list[int] = []  # values that are kept
    versions = Versions(0, alive.remove)
    model: dict[int, dict[int, int]] = {0: {}}  # moment -> everything
    moment = value = 0
    for _ in range(400):
        kept = sorted(model)
        choice = generator.random()
        if choice < 0.6:
            moment += generator.randint(0, 3)  # 0: amended
            changes = {}
            for key in generator.sample(range(8), generator.randint(0, 3)):
                value += 1
                changes[key] = value
                alive.append(value)
            versions.put(moment, changes)
            model[moment] = {**model[kept[-1]], **changes}
        elif choice < 0.9 and len(kept) > 2:
            gone = generator.randrange(len(kept) - 1)
            versions.merge(kept[gone], kept[gone + 1])
            del model[kept[gone]]
        elif len(kept) > 2:
            back = generator.choice(kept[len(kept) // 2 :])
            versions.forget_after(back)
            model = {each: state for each, state in model.items() if each <= back}
            moment = back
        kept = sorted(model)
        for at in kept:
            assert {key: versions.at(key, at) for key in range(8)} == {key: model[at].get(key, 0) for key in range(8)}
            assert versions.all(at) == model[at]
        one, other = generator.choice(kept), generator.choice(kept)
        differing = {key for key in range(8) if model[one].get(key, 0) != model[other].get(key, 0)}
        assert differing <= versions.between(one, other)
        assert versions.count == len(alive) == len(set(alive))
        assert {key: versions.latest(key) for key in range(8)} == {key: model[kept[-1]].get(key, 0) for key in range(8)}


def test_only_what_can_be_asked_for_is_kept() -> None:
    versions = Versions(0)
    for moment in range(1000):
        versions.put(moment, {moment % 3: moment})
    for moment in range(999):
        versions.merge(moment, moment + 1)
    assert versions.count == 3

"""Two sets of states, compared."""

from __future__ import annotations

from pyvmm.observe.explain.changes import changes


def test_fields_lists_and_bytes() -> None:
    before = {"a": {"x": 1, "queues": [{"size": 0}, {"size": 8}], "ram": b"\0\1\2"}, "b": {"y": True}}
    after = {"a": {"x": 2, "queues": [{"size": 4}, {"size": 8}], "ram": b"\0\7\2"}, "b": {"y": False}}
    told = [str(change) for change in changes(before, after)]
    assert told == ["a.x: 0x1 -> 0x2", "a.queues[0].size: 0x0 -> 0x4", "a.ram[0x1]: 0x1 -> 0x7", "b.y: True -> False"]


def test_lists_that_grow_are_shown_whole() -> None:
    assert [str(each) for each in changes({"a": {"rx": []}}, {"a": {"rx": [0x41]}})] == ["a.rx: [] -> [0x41]"]
    assert [str(each) for each in changes({"a": {"d": b""}}, {"a": {"d": bytes(40)}})] == [f"a.d: empty -> {'00 ' * 16}..."]


def test_registers_by_offset() -> None:
    assert [str(each) for each in changes({"nic": {"regs": {0xD8: 0}}}, {"nic": {"regs": {0xD8: 5}}})] == ["nic.regs[0xd8]: 0x0 -> 0x5"]


def test_one_state_under_two_names_is_told_once() -> None:
    old, new = {"status": 0}, {"status": 1}
    assert len(changes({"blk0-core": old, "blk0-card": old}, {"blk0-core": new, "blk0-card": new})) == 1


def test_the_number_is_bounded() -> None:
    assert len(changes({"a": {"ram": bytes(4096)}}, {"a": {"ram": b"\1" * 4096}})) == 200
    assert changes({"a": {"x": 1}}, {"a": {"x": 1}}) == []

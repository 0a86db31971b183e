"""A recording's report as text, and as folded stacks for flame graphs."""

from __future__ import annotations

from pyvmm.observe.report.hot import spots
from pyvmm.observe.stats import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.observe.report.hot import Name
    from pyvmm.observe.report.model import Story


def render(story: Story, name: Name, sort: str = "time", most: int = 20, addresses: bool = False) -> str:
    """The report, lines ended by newlines.

    Args:
        story: the recording.
        name: functions by address.
        sort: of exits: a key of ``stats.text.SORTS``.
        most: rows of each table; 0: all.
        addresses: list a function's hottest addresses as well.
    """
    header, found = story.recording.header, story.summary()
    lines = [
        f"{header.name}: {text.milliseconds(found.wall)}, {header.vcpus} vCPU{'s' * (header.vcpus > 1)} on {header.host} ({header.kvm}); "
        f"{found.returns:,} exits; {found.ended}"
    ]
    if story.recording.note:
        lines.append(story.recording.note)
    lines += ["", *hot_table(story, name, most, addresses), "", *text.kernel_table(found), "", *text.user_table(found, sort, most)]
    lines += ["", *code_table(story, name, sort, most)] if story.rips else []
    return "\n".join(lines) + "\n"


def hot_table(story: Story, name: Name, most: int, addresses: bool) -> list[str]:
    """Samples by function."""
    samples = story.samples
    if not samples:
        return ["no samples of the guest were taken (pyvmm record -F HZ takes some)"]
    asleep = sum(sample.asleep for sample in samples)
    lines = [
        f"the guest: {len(samples):,} samples, {asleep:,} of them asleep in HLT; the others:",
        f"{'share':>8} {'samples':>8}  function",
    ]
    found = spots(samples, name)
    shown = found[:most] if most else found
    for spot in shown:
        lines.append(f"{100 * spot.share:>7.2f}% {spot.count:>8,}  {spot.name}{'  (user mode)' * spot.user}")
        if addresses:
            lines += [f"{'':>8} {count:>8,}    {address:#x}" for address, count in list(spot.addresses.items())[:5]]
    if len(shown) < len(found):
        lines.append(f"{'':>8} {sum(spot.count for spot in found[len(shown) :]):>8,}  in {len(found) - len(shown)} more")
    return lines


def code_table(story: Story, name: Name, sort: str, most: int) -> list[str]:
    """Exits by the guest's code: which instruction caused how many, and of what kind they were."""
    found: dict[tuple[int, int], list[int]] = {}
    for rip, site, took in zip(story.rips, story.sites, story.took, strict=True):
        cell = found.setdefault((rip, site), [0, 0])
        cell[0] += 1
        cell[1] += took
    by = 0 if sort == "count" else 1
    rows = sorted(found.items(), key=lambda item: (-item[1][by], item[0]))
    lines = ["exits by the guest's code", f"{'count':>10} {'total ms':>10}  {'rip':<18} {'function':<32} exit"]
    for (rip, site), (count, total) in rows[:most] if most else rows:
        row = story.rows[site]
        what = f"{row.reason} {row.access} {row.place} {row.device} {row.register}".split()
        lines.append(f"{count:>10,} {total / 1e6:>10.2f}  {rip:<#18x} {name(rip):<32} {' '.join(what)}".rstrip())
    return lines


def folded(story: Story, name: Name) -> str:
    """One stack to a line: samples of the guest where there are some, else time in guest and user space in microseconds."""
    stacks: dict[str, int] = {}

    def add(stack: list[str], count: int) -> None:
        key = ";".join(part.replace(";", ",").replace("\n", " ") for part in stack)
        stacks[key] = stacks.get(key, 0) + count

    if story.samples:
        for sample in story.samples:
            where = "asleep" if sample.asleep else "user mode" if sample.user else name(sample.rip) or f"{sample.rip & -4096:#x}.."
            add([f"vCPU {sample.vcpu}", where], 1)
    else:
        for site, vcpu, took, inside in zip(story.sites, story.vcpus, story.took, story.inside, strict=True):
            row = story.rows[site]
            add([f"vCPU {vcpu}", "guest"], inside // 1000)
            who = f"{row.device} {row.register}".strip() or row.place
            add([f"vCPU {vcpu}", "user space", f"{row.reason} {row.access}".rstrip(), *([who] if who else [])], took // 1000)
    return "".join(f"{stack} {count}\n" for stack, count in sorted(stacks.items()) if count)

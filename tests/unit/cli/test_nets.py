"""-netdev, -nic, -object filter-dump: QEMU's spellings, what they make of a Config, and mistakes."""

from __future__ import annotations

import random
import shlex

import pytest

from pyvmm.backends.net.backend import open_netdevs
from pyvmm.cli.nets import KINDS
from pyvmm.cli.options import Options
from pyvmm.config import Config, DeviceConfig, NetConfig
from pyvmm.errors import ConfigError

MAC = "52:54:00:12:34:"


def config(line: str) -> Config:
    made = Options(["-kernel", "k", *shlex.split(line)]).config
    assert made is not None
    return made


def card(netdev: str, mac: str = MAC + "56", name: str = "e1000", **options: str) -> DeviceConfig:
    return DeviceConfig(name=name, options=(*options.items(), ("netdev", netdev), ("mac", mac)))


def test_no_network_unless_asked_for() -> None:
    for line in ("", "-net none", "-nic none", "-nodefaults"):
        made = config(line)
        assert made.netdevs == () and made.devices == ()


def test_a_nic_is_a_wire_and_a_card() -> None:
    made = config("-nic user,hostfwd=tcp::2222-:22,hostfwd=udp::53-:53,restrict=on")
    options = (("hostfwd", "tcp::2222-:22"), ("hostfwd", "udp::53-:53"), ("restrict", "on"))
    assert made.netdevs == (NetConfig(id="net0", kind="user", options=options),)
    assert made.devices == (card("net0"),)


def test_models_and_what_the_card_is_told() -> None:
    made = config(f"-nic tap,ifname=t0,model=virtio,mac={MAC}99,addr=5,vectors=0,id=x -nic hubport,model=e1000")
    assert made.netdevs[0] == NetConfig(id="x", kind="tap", options=(("ifname", "t0"),))
    first, second = made.devices
    assert first.name == "virtio-net-pci" and dict(first.options) == {"mac": MAC + "99", "addr": "5", "vectors": "0", "netdev": "x"}
    assert second == card("net0") and made.netdevs[1].kind == "hubport"


def test_a_netdev_and_a_device() -> None:
    made = config(
        "-device pc-testdev -device virtio-net-pci,netdev=n1,mq=off -device e1000,netdev=n0 -netdev hubport,id=n0 -netdev user,id=n1"
    )
    assert [each.id for each in made.netdevs] == ["n0", "n1"]
    assert [dict(each.options) for each in made.devices] == [
        {}, {"netdev": "n1", "mq": "off", "mac": MAC + "56"}, {"netdev": "n0", "mac": MAC + "57"},
    ]  # fmt: skip


def test_nics_come_before_other_devices_as_in_qemu() -> None:
    made = config("-device virtio-rng-pci -nic user -drive file=a")
    assert [each.name for each in made.devices] == ["e1000", "virtio-rng-pci", "virtio-blk-pci"]


def test_addresses_go_round_those_given() -> None:
    made = config(f"-nic hubport -nic hubport,mac={MAC}56 -nic hubport,mac={MAC.replace(':', '-')}58 -nic hubport -nic hubport")
    assert [each.get("mac")[-2:] for each in made.devices] == ["57", "56", "58", "59", "5a"]


def test_a_card_without_a_wire_is_not_plugged_in() -> None:
    made = config("-device e1000 -device virtio-net")
    assert made.netdevs == (NetConfig(id="none0"), NetConfig(id="none1"))
    assert made.devices == (card("none0"), card("none1", MAC + "57", "virtio-net-pci"))
    assert not any(each.link for each in open_netdevs(made.netdevs).values())


def test_dumps() -> None:
    made = config(
        "-nic hubport,pcap=a,,b.pcap -netdev hubport,id=n -object rng-builtin,id=r -object filter-dump,id=f,netdev=n,file=x,maxlen=99"
    )
    assert [(each.pcap, each.snaplen) for each in made.netdevs] == [("x", 99), ("a,b.pcap", 262144)]


def test_a_hub_leads_outside() -> None:
    made = config("-netdev user,id=u -netdev hubport,id=p,hubid=1,netdev=u -nic hubport,hubid=1 -nic hubport,hubid=1,model=virtio")
    assert [each.id for each in made.netdevs] == ["u", "p", "net0", "net1"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("-net user", "only '-net none'"),
        ("-netdev user", "no id="),
        ("-netdev user,id=", "is no id"),
        ("-netdev user,id=0a", "is no id"),
        ("-netdev user,id=a -netdev user,id=a", "given twice"),
        ("-netdev user,id=a -nic user,id=a", "given twice"),
        ("-netdev vhost-user,id=a", "there are user, tap, stream, socket, hubport"),
        ("-nic bridge", "hubport, none"),
        ("-nic ''", "is not known"),
        ("-netdev user,id=a,smb=/x", "option 'smb' is not known"),
        ("-netdev socket,id=a,udp=h:1", "option 'udp' is not known"),
        ("-netdev tap,id=a,ifname=x,ifname=y", "given twice"),
        ("-netdev tap,id=a,ifname", "KEY=VALUE"),
        ("-nic user,model=rtl8139", "model=e1000|virtio"),
        ("-nic user,vectors=3", "no option 'vectors'"),
        ("-nic user,model=virtio-net-device,addr=3", "no option 'addr'"),
        ("-device e1000,netdev=x", "give one with -netdev"),
        ("-device e1000,netdev=x -netdev user,id=y", "there is y"),
        ("-device e1000,netdev=x -netdev user,id=x -device virtio-net-pci,netdev=x", "another device uses that netdev"),
        ("-netdev user,id=u -netdev hubport,id=p,netdev=u -device e1000,netdev=u", "a hub uses that netdev"),
        ("-netdev user,id=u -netdev hubport,id=p,netdev=u -device e1000,netdev=p", "a hub uses that netdev"),
        ("-netdev user,id=u -netdev hubport,id=p,netdev=u -netdev hubport,id=q,netdev=u", "a hub uses that netdev"),
        ("-nic user,mac=1:2:3", "six bytes"),
        ("-nic user,mac=52:54:00:12:34:zz", "six bytes"),
        ("-nic user,mac=53:54:00:12:34:56", "first byte must be even"),
        ("-nic user,mac=0:0:0:0:0:0", "not the address"),
        (f"-nic hubport,mac={MAC}01 -nic hubport,mac={MAC}01", "two cards"),
        ("-device e1000,model=x", "option 'model' is not known"),
        ("-object filter-dump,id=f,file=x", "no netdev="),
        ("-object filter-dump,id=f,netdev=n,file=x", "no netdev 'n'"),
        ("-netdev user,id=n -object filter-dump,netdev=n,file=x", "no id="),
        ("-netdev user,id=n -object filter-dump,id=f,netdev=n,file=x,maxlen=-1", "above 0"),
        ("-netdev user,id=n -object filter-dump,id=f,netdev=n,file=x,queue=rx", "queue=all"),
        ("-netdev user,id=n -object filter-dump,id=f,netdev=n,file=x,insert=before", "'insert' is not known"),
        ("-netdev user,id=n,pcap=y -object filter-dump,id=f,netdev=n,file=x", "a dump already"),
        ("-nic hubport,id=n -nic hubport,id=m -object filter-dump,id=f,netdev=n,file=x -object filter-dump,id=f,netdev=m,file=x", "twice"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(line)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(10))
def test_random_words_never_raise_anything_else(seed: int) -> None:
    chance = random.Random(seed)
    keys = [*{key for keys in KINDS.values() for key in keys}, "id", "pcap", "model", "mac", "addr", "netdev", "file", "maxlen", ""]
    values = [
        "",
        "a",
        "b",
        "on",
        "off",
        "user",
        "0",
        "-1",
        "9" * 30,
        "10.0.2.2",
        "tcp::1-:2",
        ":",
        "\u0661",
        "x\0y",
        "52:54:00:12:34:56",
        ",,",
    ]
    for _ in range(300):
        words = []
        for _ in range(chance.randrange(1, 4)):
            option = chance.choice(("-netdev", "-nic", "-device", "-object"))
            kind = chance.choice((*KINDS, "none", "e1000", "virtio-net-pci", "filter-dump", ""))
            pairs = [
                f"{chance.choice(keys)}{chance.choice(('=', '=', '=', ''))}{chance.choice(values)}" for _ in range(chance.randrange(5))
            ]
            words += [option, ",".join([kind, *pairs])]
        try:
            made = Options(["-kernel", "k", *words]).config
            assert made is not None
            for each in made.devices:
                assert each.get("netdev") in {netdev.id for netdev in made.netdevs}
        except ConfigError as error:
            assert "\n" not in str(error)

"""Network cards: from ``-device e1000,netdev=ID`` to a card with its wire. Imported by a machine that has one."""

from __future__ import annotations

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.backends.net.backend import NetBackend
    from pyvmm.config import DeviceConfig
    from pyvmm.devices.e1000.card import E1000
    from pyvmm.devices.virtio.net import VirtioNet
    from pyvmm.machine import Machine

    Nic = E1000 | VirtioNet

_FIRST_MAC = 0x525400123456  # QEMU's; the next card gets the next
_QUEUE_MIN, _QUEUE_MAX = 64, 1024
_MTU_MIN, _MTU_MAX = 68, 65535  # virtio 1.2, 5.1.4.1


class Nics:
    """The network cards of one machine.

    Attributes:
        cards: by name.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cards: dict[str, Nic] = {}
        self._untrace: list[Callable[[], None]] = []

    def e1000(self, name: str, config: DeviceConfig) -> E1000:
        """An 82540EM, not yet plugged in anywhere. Raises ConfigError."""
        from pyvmm.devices.e1000.card import E1000

        machine, clock = self.machine, self.machine.clock
        backend, mac = self._backend(config), self._mac(config)
        card = E1000(name, machine.memory, backend, mac, clock.make_timer, clock)
        if machine.coalesced is not None:
            from pyvmm.coalesce import CoalescedRegisters
            from pyvmm.devices.e1000.constants import POSTED

            receiver = card.mac.receiver
            registers = CoalescedRegisters(machine.coalesced, card.bars[0], POSTED, lambda: receiver.waiting)
            receiver.look = registers.look
        self.cards[name] = card
        return card

    def virtio_net(self, name: str, config: DeviceConfig) -> VirtioNet:
        """A virtio-net device without its transport. Raises ConfigError."""
        from pyvmm.devices.virtio import net_features as f
        from pyvmm.devices.virtio.net import NetOptions, VirtioNet

        if config.flag("mq", False):
            raise ConfigError(f"-device {config.name},mq=on: one pair of queues is all there is: leave it out")
        switches = {
            "csum": f.CSUM, "guest_csum": f.GUEST_CSUM, "host_tso4": f.HOST_TSO4, "host_tso6": f.HOST_TSO6, "host_ecn": f.HOST_ECN,
            "guest_tso4": f.GUEST_TSO4, "guest_tso6": f.GUEST_TSO6, "guest_ecn": f.GUEST_ECN, "mrg_rxbuf": f.MRG_RXBUF,
            "status": f.STATUS, "ctrl_vq": f.CTRL_VQ, "ctrl_rx": f.CTRL_RX, "ctrl_vlan": f.CTRL_VLAN,
        }  # fmt: skip
        options = NetOptions(
            without=sum(bit for key, bit in switches.items() if not config.flag(key, True)),
            mtu=config.number("host_mtu", 0, _MTU_MIN, _MTU_MAX),
            rx_size=_queue_size(config, "rx_queue_size"),
            tx_size=_queue_size(config, "tx_queue_size"),
        )
        device = VirtioNet(name, self.machine.loop, self._backend(config), self._mac(config), options)
        self.cards[name] = device
        return device

    def _backend(self, config: DeviceConfig) -> NetBackend:
        netdev = config.get("netdev")
        if not netdev:
            from pyvmm.backends.net.backend import Wire

            return Wire("none")  # a cable that is not plugged in
        if netdev not in self.machine.netdevs:
            raise ConfigError(f"-device {config.name},netdev={netdev}: there is no such netdev: add -netdev user,id={netdev}")
        backend = self.machine.netdevs[netdev]
        if any(card.backend is backend for card in self.cards.values()):
            raise ConfigError(f"-device {config.name},netdev={netdev}: another card has that netdev: give each its own, or a hubport")
        return backend

    def _mac(self, config: DeviceConfig) -> bytes:
        text = config.get("mac")
        if not text:
            return (_FIRST_MAC + len(self.cards)).to_bytes(6, "big")
        try:
            mac = bytes(int(part, 16) for part in text.replace("-", ":").split(":"))
        except ValueError:
            mac = b""
        if len(mac) != 6 or mac[0] & 1 or not any(mac):
            raise ConfigError(f"-device {config.name},mac={text}: give a unicast address, such as 52:54:00:12:34:56")
        return mac

    def attach(self) -> None:
        """Connects every card and its wire."""
        for card in self.cards.values():
            card.attach(self.machine.loop)

    def detach(self) -> None:
        """The end of the run: the wires stay, for the next one."""
        for card in self.cards.values():
            card.backend.detach()

    def find(self, name: str) -> Nic | None:
        """A card by its name, or the id of its netdev."""
        by_netdev = (card for card in self.cards.values() if card.backend.name == name)
        return self.cards.get(name) or next(by_netdev, None)

    def trace(self, say: Callable[[str], None]) -> None:
        """Tells ``say`` what becomes of each packet, a line per step (--trace-net); until the end of the run. Machine lock held."""
        for card in self.cards.values():
            if card.__class__.__name__ == "E1000":
                from pyvmm.devices.e1000 import trace as e1000_trace

                self._untrace.append(e1000_trace.attach(card, say))  # type: ignore[arg-type]
            else:
                from pyvmm.devices.virtio import net_trace

                self._untrace.append(net_trace.attach(card, say))  # type: ignore[arg-type]

    def untrace(self) -> None:
        """Ends ``trace``. Machine lock held."""
        while self._untrace:
            self._untrace.pop()()


def set_link(machine: Machine, name: str, up: bool) -> None:
    """See ``Machine.set_link``."""
    nics = machine.cards.nics if machine.cards is not None else None
    card = nics.find(name) if nics is not None else None
    if card is None:
        known = f"there is {', '.join(nics.cards)}" if nics is not None else "there is none"
        raise ConfigError(f"no network card or netdev is called '{name}': {known}")
    with machine.lock:
        card.set_link(up)


def _queue_size(config: DeviceConfig, key: str) -> int:
    size = config.number(key, 256, _QUEUE_MIN, _QUEUE_MAX)
    if size & (size - 1):
        raise ConfigError(f"-device {config.name},{key}={size}: give a power of two from {_QUEUE_MIN} to {_QUEUE_MAX}")
    return size

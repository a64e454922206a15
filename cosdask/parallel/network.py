"""A host's network interfaces: on which address its ranks are reached."""

from __future__ import annotations

import ipaddress
import socket

import psutil

from cosdask.errors import GroupError


def address_on(wanted: str) -> str:
    """This host's address on an interface (``ib0``) or in a network (``10.1.0.0/16``); IPv4 before IPv6.

    Raises:
        GroupError: there is none; the message lists what there is.
    """
    there = _addresses()
    if "/" in wanted:
        network = _network(wanted)
        found = [address for _, address in there if ipaddress.ip_address(address) in network]
    else:
        found = [address for name, address in there if name == wanted]
    if not found:
        listed = ", ".join(f"{name} ({address})" for name, address in there)
        raise GroupError(f"--interface {wanted}: {socket.gethostname()} has no such address; it has {listed}.")
    return found[0]


def interface_of(address: str) -> str:
    """The name of the interface that has an address; "" where none has."""
    return next((name for name, found in _addresses() if found == address), "")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise GroupError(f"--interface {text}: not a network such as 10.1.0.0/16 ({error}).") from error


def _addresses() -> list[tuple[str, str]]:
    """Name and address of every interface, IPv4 first; scoped IPv6 addresses cannot be passed on to other hosts."""
    found: list[tuple[str, str]] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for name, addresses in psutil.net_if_addrs().items():
            found += [(name, a.address) for a in addresses if a.family == family and "%" not in a.address]
    return found

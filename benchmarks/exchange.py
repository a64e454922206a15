"""How fast gradients travel: the group's average of CaffeNet's gradient beside a bare copy through loopback.

``python -m benchmarks.exchange`` prints a line a measurement. Bandwidth is what an all-reduce has to move over each
rank's link, ``2 (N - 1) / N`` times the gradient's size in each direction, divided by the time; the bare copies move
as many bytes between two processes through one TCP connection, in one direction and in both at once. Copies through
loopback are the processor's work, so both directions at once share the cores with each other, as an all-reduce's do.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

from cosdask.parallel.link import free_address
from cosdask.parallel.spares import environment

HOST = "127.0.0.1"
#: numbers of the gradients of CaffeNet's layers
LEAVES = (37748736, 16777216, 4096000, 884736, 663552, 442368, 307200, 34848, 10568)
SIZE = 4 * sum(LEAVES)
#: bytes handed to the system at a time
CHUNK = 1 << 20
DEADLINE = 120.0


def receive(link: socket.socket, whole: memoryview) -> None:
    """Fill a buffer."""
    taken, size = 0, len(whole)
    while taken < size:
        count = link.recv_into(whole[taken : taken + CHUNK])
        if not count:
            raise ConnectionError(f"the other side is gone after {taken} of {size} bytes")
        taken += count


def send(link: socket.socket, whole: memoryview) -> None:
    """Send a buffer."""
    for place in range(0, len(whole), CHUNK):
        link.sendall(whole[place : place + CHUNK])


def peer(address: Any, repetitions: int, both: bool) -> None:
    """The other process of a bare copy."""
    with socket.create_connection(address, timeout=DEADLINE) as link:
        copies(link, repetitions, not both, both)


def copies(link: socket.socket, repetitions: int, sends: bool, both: bool) -> list[float]:
    """Seconds of each copy; the first, in which the system gives the memory, is left out, as for the ranks."""
    out, into = (memoryview(bytearray(b"\1") * SIZE) for _ in range(2))
    found = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        if both:
            sender = threading.Thread(target=send, args=(link, out))
            sender.start()
            receive(link, into)
            sender.join(DEADLINE)
        elif sends:
            send(link, out)
        else:
            receive(link, into)
        found.append(time.perf_counter() - began)
        # in step again before the next one
        link.sendall(b"x")
        receive(link, memoryview(bytearray(1)))
    return found[1:]


def bare(repetitions: int, both: bool) -> list[float]:
    """Seconds of bare copies of as many bytes as the gradient has."""
    with socket.create_server((HOST, 0)) as server:
        process = get_context("spawn").Process(target=peer, args=(server.getsockname(), repetitions, both))
        process.start()
        server.settimeout(DEADLINE)
        link, _ = server.accept()
        with link:
            link.settimeout(DEADLINE)
            found = copies(link, repetitions, False, both)
        process.join(DEADLINE)
    return found


def rank(number: int, world: int, coordinator: str, repetitions: int, wire: str) -> None:
    """One rank's part; rank 0 prints the seconds of each exchange."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from cosdask import device
    from cosdask.parallel import compat
    from cosdask.parallel.exchange import AXIS, average

    compat.join_group(coordinator, number, [HOST] * world, DEADLINE)
    mesh = Mesh(np.array(jax.devices()), (AXIS,))

    def exchange(leaves: list[Any]) -> list[Any]:
        return list(average([leaf[0] for leaf in leaves], world, None if wire == "float32" else wire))

    # the gradients' memory is used again, as that of a step's own buffers is
    run = device.compile_function(jax.shard_map(exchange, mesh=mesh, in_specs=P(AXIS), out_specs=P(), check_vma=False))
    place = NamedSharding(mesh, P(AXIS))
    leaves = [jax.make_array_from_process_local_data(place, np.ones((1, size), np.float32)) for size in LEAVES]
    for turn in range(repetitions + 1):
        began = time.perf_counter()
        jax.block_until_ready(run(leaves))
        if number == 0 and turn:
            print(time.perf_counter() - began, flush=True)
    compat.leave_group()


def averaged(world: int, repetitions: int, wire: str) -> list[float]:
    """Seconds of the group's average of the gradient, over ranks of one core each."""
    coordinator = free_address(HOST)
    command = [sys.executable, "-m", "benchmarks.exchange", "--repetitions", str(repetitions), "--wire", wire]
    processes = [
        subprocess.Popen(
            [*command, "--rank", f"{number}/{world}@{coordinator}"],
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(world)
    ]
    try:
        said = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [float(line) for line in said[0].splitlines() if not line.startswith("[Gloo]")]


def line(name: str, seconds: list[float], size: float) -> str:
    """A row of the table."""
    median, least = statistics.median(seconds), min(seconds)
    rates = f"{size / median / 1e9:.2f} ({size / least / 1e9:.2f})"
    return f"| {name} | {1e3 * median:.0f} ({1e3 * least:.0f}) | {rates} |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("--wire", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rank", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        number, world = options.rank.split("@")[0].split("/")
        rank(int(number), int(world), options.rank.split("@")[1], options.repetitions, options.wire)
        return
    print("| what | ms: median (least) | GB/s each way: median (best) |\n|---|---|---|")
    sides: dict[str, Callable[[], list[float]]] = {
        "bare copy, one way": lambda: bare(options.repetitions, both=False),
        "bare copy, both ways at once": lambda: bare(options.repetitions, both=True),
    }
    for name, measure in sides.items():
        print(line(name, measure(), SIZE), flush=True)
    for world in (2, 4):
        for wire in ("float32", "bfloat16"):
            size = 2 * (world - 1) / world * SIZE
            seconds = averaged(world, options.repetitions, wire)
            print(line(f"average over {world} ranks, {wire} on the wire", seconds, size), flush=True)
    print(f"\n{SIZE / 1e6:.0f} MB, {len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__":
    main()

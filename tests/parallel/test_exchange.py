"""Guards invariant 2 where gradients travel in fewer bits: they do on every device, and their sums stay float32."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

_PROGRAM = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from cosdask.parallel import compat, exchange, trainer
from cosdask.parallel.exchange import AXIS, average

exchange.SMALL = 1 << 16  # arrays of half a million numbers would only make the test slow
jax.config.update("jax_num_cpu_devices", 3)
mesh = Mesh(np.array(jax.devices()), (AXIS,))
found = {"slow to load": [name for name in ("pandas", "dask", "distributed") if name in sys.modules]}
parts = [np.full((2, 3), rank, np.float64) for rank in range(3)]
placed = compat.place_parts(parts, NamedSharding(mesh, P(AXIS)), jax.devices())
found["placed"] = [placed.dtype.name, placed.tolist()]
for wire in (None, "bfloat16"):
    def mean(tree):
        return average(jax.tree.map(lambda leaf: leaf[0], tree), 3, wire)

    run = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=P(AXIS), out_specs=P(), check_vma=False))
    numbers = np.random.default_rng(0).standard_normal((3, 70_001), np.float32)
    tree = {"large": numbers, "small": numbers[:, :5].copy(), "odd": 256 + numbers[:, 5:12].reshape(3, 7, 1)}
    compiled = run.lower(tree).compile()
    lines = [line.split(" = ")[1] for line in compiled.as_text().splitlines() if " = " in line and "metadata" in line]
    sent = [line for line in lines if any(f" {name}(" in line for name in ("all-reduce", "all-to-all", "all-gather"))]
    found[str(wire)] = {
        "sent": [line.split("(%")[0] for line in sent],
        "means": {name: np.asarray(value).tolist() for name, value in compiled(tree).items()},
        "numbers": {name: np.asarray(value).tolist() for name, value in tree.items()},
    }
print(json.dumps(found))
"""


Found = dict[str, Any]


@pytest.fixture(scope="module")
def found() -> Found:
    """What three devices make of an average: in a process of its own, since devices are counted once."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    return dict(json.loads(done.stdout))


def test_a_rank_loads_no_more_than_it_needs(found: Found) -> None:
    """A new rank's imports are most of what the death of a worker costs (invariant 5)."""
    assert found["slow to load"] == []


def test_parts_are_placed_in_the_order_of_the_devices(found: Found) -> None:
    """As JAX's public function does it, number types too."""
    assert found["placed"] == ["float32", [[float(row // 2)] * 3 for row in range(6)]]


def test_float32_travels_in_one_all_reduce(found: Found) -> None:
    """Large arrays and a buffer of the small ones; the mean as exact as float32 is."""
    assert len(found["None"]["sent"]) == 1
    for name, mean in found["None"]["means"].items():
        exact = np.mean(np.array(found["None"]["numbers"][name]), axis=0)
        np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-7)


def test_bfloat16_travels_in_16_bits_and_is_added_in_float32(found: Found) -> None:
    """XLA's own all-reduce of bfloat16 sends 32 bits on CPUs; and sums in bfloat16 would lose what this one keeps."""
    sent = found["bfloat16"]["sent"]
    assert sent and all("u16[" in line and "f32[" not in line for line in sent)
    for name, mean in found["bfloat16"]["means"].items():
        exact = np.mean(np.array(found["bfloat16"]["numbers"][name]), axis=0)
        # two roundings to 8 bits: of what is sent, and of the mean
        np.testing.assert_allclose(mean, exact, rtol=2**-8, atol=2**-8 * 5)

"""Whatever has a line for each node type has one for every node type."""

from fuzz import fuzz_bounds
from support.helpers import one_of_each

from bnn.bench import twins
from bnn.export.onnx import nodes as onnx
from bnn.packed.costs import layer_costs
from bnn.packed.nodes import NODES, Node
from bnn.packing import unpacking
from bnn.runtime import reference
from bnn.runtime.lowering import LoweringError, lower

TABLES = {
    "runtime/reference.py, OPERATIONS": set(reference.OPERATIONS),
    "export/onnx/nodes.py, OPERATIONS": set(onnx.OPERATIONS),
    "packing/unpacking.py, MODULES": set(unpacking.MODULES),
    "bench/twins.py, TORCH": set(twins.TORCH),
    "tests/fuzz/fuzz_bounds.py, RULES": set(fuzz_bounds.RULES),
    "tests/support/helpers.py, one_of_each": {type(node) for node in one_of_each().nodes},
}
COSTS = layer_costs(one_of_each())


def test_every_table_has_every_node() -> None:
    """The failure names each table and what it lacks; lowering is no table, and says so itself."""
    wanted: set[type[Node]] = set(NODES.values())
    missing = [
        f"{table}: {', '.join(sorted(cls.__name__ for cls in wanted - known))}"
        for table, known in TABLES.items()
        if wanted - known
    ]
    try:
        for dtype in ("u8", "f32"):
            lower(one_of_each(), dtype)
    except LoweringError as error:
        missing.append(f"runtime/lowering.py, emit: {error}")
    counted = {type(node) for node, cost in zip(one_of_each().nodes, COSTS, strict=True) if cost.macs}
    products = {cls for cls in wanted if "weight" in cls.__dataclass_fields__}
    missing += [f"packed/costs.py, _cost: {cls.__name__}" for cls in products - counted]
    assert not missing, "\n".join(["these lack a node:", *missing])

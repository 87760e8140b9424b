"""The rules of CONTRIBUTING.md, "Blocks that survive export", as checks of graphs: of what torch.export and
torch.jit.trace made of a block, not of its source."""

import operator
import warnings
from itertools import product

import sympy
import torch

TINY = 1e-8  # constants up to it are zero to onnxscript's optimizer
EXAMPLE = (2, 10, 12)  # batch, height, width: no multiples of 7, nothing that is derived from them is alike
OTHER_SIZES = tuple(product((1, 2, 3), (2, 5, 7, 8, 14, 15, 40), (2, 3, 7, 11, 16, 49)))
UNKNOWN = ("aten::mT", "aten::mH", "aten::numpy_T", "aten::channel_shuffle", "aten::eye", "torchvision::")
DIVISIONS = (operator.floordiv, operator.mod)


def exported(block, x):
    """The program of a block whose batch, height and width are symbols; each branch on one is an assertion in it."""
    any_size = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        return torch.export.export(
            block, (x,), dynamic_shapes=(any_size,), strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )


def traced(block, x):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(block, x, check_trace=False)


def broken_rules(block, x):
    """What of a block's graphs breaks a rule, one line each; x: its input."""
    try:
        program = exported(block, x)
    except (torch._dynamo.exc.UserError, ValueError) as error:
        return [f"fixes a size: {' '.join(str(error).split())[:200]}"]
    static = torch.export.export(block, (x,), strict=False)
    found = [*tiny_constants(program), *tiny_constants(static), *negative_divisions(program)]
    return [*found, *branches(program), *computed_rolls(program), *unknown_operators(traced(block, x))]


def tiny_constants(program):
    for node in program.graph.nodes:
        numbers, _ = torch.utils._pytree.tree_flatten((node.args, node.kwargs))
        for number in numbers:
            if isinstance(number, float) and 0 < abs(number) <= TINY:
                yield f"constant {number:g} in {node.target}"
    for name, value in program.constants.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            size = value.abs()
            if ((size > 0) & (size <= TINY)).any():
                yield f"constant {name} holds {size[size > 0].min():g}"


def negative_divisions(program):
    for node in program.graph.nodes:
        if node.target in DIVISIONS:
            values = [argument.meta["val"] if hasattr(argument, "meta") else argument for argument in node.args]
            if any(_example_of(value) < 0 for value in values):
                yield f"division of a negative size: {node.meta['val']}"


def _example_of(value):
    return value.node.hint if isinstance(value, torch.SymInt) else value


def branches(program):
    """Conditions that the example meets and another size does not. `!=` may be a coincidence of two sizes."""
    names = _symbols(program)
    assert len(names) == 3, "batch, height and width are not three symbols"
    for symbol, limits in program.range_constraints.items():
        if symbol in names and limits.lower > 2:
            yield f"wants a size of {limits.lower} at least"
    for node in program.graph.nodes:
        if getattr(node.target, "__name__", "") != "_assert_scalar.default":
            continue
        value = node.args[0].meta["val"]
        condition = sympy.sympify(value.node.expr if isinstance(value, torch.SymBool) else value)
        values = ({name: sizes[place] for name, place in names.items()} for sizes in OTHER_SIZES)
        broken = next((sizes for sizes in values if condition.xreplace(sizes) == sympy.false), None)
        if broken and not isinstance(condition, sympy.Ne):
            yield f"branch {condition} does not hold at {broken}"


def _symbols(program):
    """The symbols of batch, height and width -> 0, 1, 2."""
    maps = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and "val" in node.meta]
    shape = next(each.shape for each in maps if each.ndim == 4 and isinstance(each.shape[0], torch.SymInt))
    return {shape[axis].node.expr: place for place, axis in enumerate((0, 2, 3))}


def computed_rolls(program):
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.roll.default and not all(isinstance(shift, int) for shift in node.args[1]):
            yield f"roll by computed numbers: {node.meta['val'].shape}"


def unknown_operators(trace):
    for node in trace.inlined_graph.nodes():
        kind = node.kind()
        if kind.startswith(UNKNOWN):
            yield f"operator {kind}"
        if kind == "aten::permute" and min(_constant(node, 1) or [0]) < 0:
            yield "aten::permute with negative axes"


def _constant(node, place):
    """A list of numbers that is constant, or None."""
    made = list(node.inputs())[place].node()
    numbers = [item.toIValue() for item in made.inputs()] if made.kind() == "prim::ListConstruct" else None
    return numbers if numbers is not None and all(isinstance(number, int) for number in numbers) else None

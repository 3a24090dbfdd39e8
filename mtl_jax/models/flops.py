"""Arithmetic of a traced function, counted from its equations: the same on every backend."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# One operation for each element of the result. What only moves or compares data counts nothing.
_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "pow", "integer_pow", "square"),
    *("exp", "log", "log1p", "expm1", "tanh", "logistic", "erf", "sqrt", "rsqrt", "sin", "cos", "add_any"),
}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cumsum", "reduce"}


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Returns the floating-point operations of a function; a multiplication and an addition are two.

    Args:
        function: To be traced.
        *arguments: Arrays, or their shapes.

    Example:
        >>> count_flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)))
        48
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    name = equation.primitive.name
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
    result = math.prod(getattr(equation.outvars[0].aval, "shape", ())) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * result * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        outputs = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * result * math.prod(shapes[1]) // max(outputs, 1)
    if name in _ELEMENTWISE:
        return result
    if name in _REDUCTIONS:
        return math.prod(shapes[0])
    inner = [
        value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
        for parameter in equation.params.values()
        for value in (parameter if isinstance(parameter, tuple) else (parameter,))
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ]
    if name == "cond":
        return max(map(_count, inner), default=0)
    # Of a function with a derivative of its own, only the function itself.
    return equation.params.get("length", 1) * sum(map(_count, inner[:1]))

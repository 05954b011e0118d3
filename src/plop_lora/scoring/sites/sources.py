"""Read the source code of a module's class for reasons why an adapter would not learn.

A forward pass on this machine need not show two of these reasons: a class that uses a weight
without calling the module that owns it, as training kernels do, and a forward that records no
autograd graph. Both are visible in the source code of the class. A class without readable source is
assumed to have neither; `site_checks.py` also checks the running model.
"""

from __future__ import annotations

import ast
import functools
import inspect
import tokenize
from collections.abc import Iterator

from torch import nn

_ASKED = frozenset({"dtype", "device", "shape", "ndim", "size", "dim", "numel", "requires_grad",
                    "data", "is_cuda", "is_meta", "element_size"})  # fmt: skip
"""Attributes and methods of a weight that code uses without computing with its values."""
_QUESTIONS = frozenset({"isinstance", "hasattr", "getattr", "type", "id"})
_WITHOUT_GRAPH = frozenset({"no_grad", "inference_mode"})


@functools.cache
def bare_weights(kind: type[nn.Module]) -> frozenset[str]:
    """Return the submodules of a class whose weight its forward uses without calling them.

    An adapter wraps the submodule, so it would never run: Mamba's training kernels use
    `self.x_proj.weight`.
    """
    methods = _methods(kind)
    return frozenset(
        leaf for method in _used_by_forward(methods) for leaf in _bare_in(methods[method])
    )


@functools.cache
def records_no_graph(kind: type[nn.Module]) -> bool:
    """Return whether the forward of a class is decorated with `no_grad` or `inference_mode`."""
    forward = _methods(kind).get("forward")
    names = {_last_word(decorator) for decorator in forward.decorator_list} if forward else set()
    return bool(names & _WITHOUT_GRAPH)


def _methods(kind: type[nn.Module]) -> dict[str, ast.FunctionDef]:
    """Return the methods that a class defines or inherits, without those of `nn.Module`."""
    methods: dict[str, ast.FunctionDef] = {}
    for one in kind.__mro__:
        if one is nn.Module:
            break
        for node in _body_of(one):
            if isinstance(node, ast.FunctionDef):
                methods.setdefault(node.name, node)
    return methods


def _body_of(kind: type) -> list[ast.stmt]:
    """Return the statements of a class at the top level of its file; empty for other classes."""
    try:
        classes = _classes(inspect.getsourcefile(kind))
    except (OSError, TypeError, SyntaxError, ValueError):
        return []
    return classes[kind.__qualname__].body if kind.__qualname__ in classes else []


@functools.lru_cache(maxsize=8)
def _classes(path: str | None) -> dict[str, ast.ClassDef]:
    """Parse a file once for all of its classes."""
    if path is None:
        return {}
    with tokenize.open(path) as file:
        tree = ast.parse(file.read())
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _used_by_forward(methods: dict[str, ast.FunctionDef]) -> list[str]:
    """Return the methods that forward calls directly or indirectly, starting with itself."""
    reached = ["forward"] if "forward" in methods else []
    for name in reached:
        for node in ast.walk(methods[name]):
            if _of_self(node) in methods and _of_self(node) not in reached:
                reached.append(str(_of_self(node)))
    return reached


def _bare_in(method: ast.FunctionDef) -> Iterator[str]:
    """Yield each `leaf` for which a method computes with `self.leaf.weight`."""
    for parent in ast.walk(method):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Attribute) and node.attr == "weight" and not _asks(parent):
                leaf = _of_self(node.value)
                if leaf is not None:
                    yield leaf


def _of_self(node: ast.AST) -> str | None:
    """Return `name` of an expression `self.name`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == "self" else None
    return None


def _asks(parent: ast.AST) -> bool:
    """Return whether the expression around a weight does not compute with its values.

    Slicing does not count as computing: BLOOM and others slice a weight only under a special
    setting (`pretraining_tp`), and call the module otherwise.
    """
    if isinstance(parent, ast.Attribute):
        return parent.attr in _ASKED
    if isinstance(parent, ast.Call):
        return _last_word(parent.func) in _QUESTIONS
    return isinstance(parent, ast.Compare | ast.Subscript)


def _last_word(node: ast.AST) -> str:
    """Return `no_grad` of `torch.no_grad()`."""
    if isinstance(node, ast.Call):
        return _last_word(node.func)
    return getattr(node, "attr", getattr(node, "id", ""))


@functools.cache
def order_of_heads(kind: type[nn.Module]) -> str | None:
    """Return the order in which the forward of a class unpacks q, k and v, such as `qkv`."""
    forward = _methods(kind).get("forward")
    for node in ast.walk(forward) if forward else ():
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            names = [getattr(name, "id", "")[:1] for name in node.targets[0].elts]
            if sorted(names) == ["k", "q", "v"]:
                return "".join(names)
    return None


@functools.cache
def groups_by_head(kind: type[nn.Module]) -> bool:
    """Return whether forward reshapes to [heads, 3 * width], with q, k and v of each head."""
    forward = _methods(kind).get("forward")
    return any(
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and isinstance(node.left, ast.Constant)
        and node.left.value == 3
        for call in (ast.walk(forward) if forward else ())
        if isinstance(call, ast.Call) and _last_word(call.func) in ("view", "reshape")
        for node in call.args
    )

"""NFN written from its definition, slowly, in float64, by another road than the library's.

Every product with a parameter is caught where torch makes it (`linear`, `addmm`, `matmul`, `bmm`,
`embedding` excepted), whatever module makes it, and the parameter is found by the memory its
operand lies in. Rows come one sequence at a time, without padding; W z is multiplied anew.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from plop_lora.scoring.sites.find import Site, find_sites

LINEAR = (nn.functional.linear,)
ADDED = (torch.addmm,)
MULTIPLIED = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.mm)


class Watch(TorchFunctionMode):
    """Collects (rows, weight as [in, out]) of every product with a watched parameter."""

    def __init__(self, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.spans = sorted(
            (p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), name)
            for name, p in parameters.items()
        )
        self.seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Any = None
    ) -> Any:
        options = options or {}
        if function in LINEAR:
            weight = arguments[1] if len(arguments) > 1 else options["weight"]
            self._catch(arguments[0], weight, weight.T)
        elif function in ADDED:
            self._catch(arguments[1], arguments[2], arguments[2])
        elif function in MULTIPLIED:
            self._catch(arguments[0], arguments[1], arguments[1])
        return function(*arguments, **options)

    def _catch(self, rows: torch.Tensor, operand: torch.Tensor, weight_IO: torch.Tensor) -> None:
        start = operand.data_ptr()
        for low, high, name in self.spans:
            if low <= start < high:
                self.seen[name].append((rows.detach().clone(), weight_IO.detach().clone()))
                return


def exact_norm(weight: torch.Tensor) -> float:
    """E||W u|| by numerical integration over the singular values (float64, no approximation)."""
    squares = torch.linalg.svdvals(weight.detach().double()) ** 2
    return norm_of_spectrum(squares, weight.shape[1])


def norm_of_spectrum(squares: torch.Tensor, width: int) -> float:
    """E||W u|| from the squared singular values of W in float64.

    With g Gaussian, E||W g|| = E||W u|| E||g||, and E sqrt(Q) for Q = Σ σ² g² follows from its
    Laplace transform: E sqrt(Q) = 1 / (2 sqrt(pi)) ∫ (1 - L(t)) t^(-3/2) dt.
    """
    scale = squares.mean()
    t = torch.logspace(-14, 10, 801, dtype=torch.float64, base=10) / scale
    missing = -torch.expm1(-0.5 * torch.log1p(2 * t[:, None] * squares).sum(dim=1))
    integral = torch.trapezoid(missing * t**-0.5, torch.log(t))
    expected = integral / (2 * math.sqrt(math.pi))
    gaussian_norm = math.sqrt(2) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2))
    return float(expected) / gaussian_norm


def reference(
    model: nn.Module, rows: Iterable[dict[str, torch.Tensor]], include: Sequence[str] = ()
) -> dict[str, tuple[float, int]]:
    """Return (mean NFN, number of rows that entered it) of every site."""
    exact = copy.deepcopy(model).double()
    if hasattr(exact, "set_experts_implementation"):
        exact.set_experts_implementation("eager")
    sites = find_sites(exact, include=include).sites
    parameters = {_parameter_name(site): None for site in sites}
    named = dict(exact.named_parameters(remove_duplicate=False))
    watch = Watch({name: named[name] for name in parameters})
    with torch.no_grad(), watch:
        for one in rows:
            exact(**{k: v.double() if v.is_floating_point() else v for k, v in one.items()})
    return {
        site.name: value
        for site in sites
        if (value := _mean(site, watch.seen[_parameter_name(site)])) is not None
    }


def _parameter_name(site: Site) -> str:
    return site.host.name if site.host.is_parameter else f"{site.host.name}.weight"


def _mean(
    site: Site, products: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[float, int] | None:
    total, count = 0.0, 0
    for rows, weight_IO in products:
        batched = weight_IO if weight_IO.ndim == 3 else weight_IO[None]
        stacked = rows if weight_IO.ndim == 3 else rows.reshape(1, -1, rows.shape[-1])
        for one_IO, z in zip(batched, stacked, strict=True):
            weight = one_IO.T[_rows(site)]
            z = z[z.norm(dim=-1) > 0]
            norm = exact_norm(weight)
            total += float(((z @ weight.T).norm(dim=-1) / (z.norm(dim=-1) * norm)).sum())
            count += len(z)
    return (total / count, count) if count else None


def _rows(site: Site) -> torch.Tensor:
    """Return the numbers of the weight's rows that belong to a site, counted one by one."""
    part = site.part
    if part is None:
        return torch.arange(site.host.out_features)
    inside = [
        group * part.width + offset
        for group in range(part.groups)
        for offset in range(part.start, part.start + part.size)
    ]
    return torch.tensor(inside)

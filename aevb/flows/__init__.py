"""Normalizing flows: invertible maps of R^D with log-determinants, and the law they give a draw.

    map                       y                              forward    inverse
    PlanarMap                 x + u tanh(w.x + b)            D          a root in one number
    RadialMap                 x + beta h(r) (x - center)     D          closed form
    HouseholderMap            x - 2 v (v.x) / v.v            D          itself
    SylvesterMap              x + Q R tanh(S Q^T x + b)      D M        M roots, one after the other
    CouplingMap               half of x e^a + m              one pass   one pass
    InverseAutoregressiveMap  x e^a(x) + m(x)                one pass   D passes
    MaskedAutoregressiveMap   x e^a(y) + m(y)                D passes   one pass

A map is an object with two functions, `forward(x)` and `inverse(y)`; both give the point on the
other side and log |det dy/dx| there. Its parameters are tensors of whoever makes it: with a batch
axis, as an encoder gives them, each datum has a map of its own.
"""

from aevb.flows.affine import CouplingMap, InverseAutoregressiveMap, MaskedAutoregressiveMap
from aevb.flows.distribution import FlowDistribution, Map
from aevb.flows.orthogonal import HouseholderMap, SylvesterMap
from aevb.flows.planar import PlanarMap, RadialMap

__all__ = [
    "CouplingMap",
    "FlowDistribution",
    "HouseholderMap",
    "InverseAutoregressiveMap",
    "Map",
    "MaskedAutoregressiveMap",
    "PlanarMap",
    "RadialMap",
    "SylvesterMap",
]

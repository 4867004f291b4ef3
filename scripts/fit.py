#!/usr/bin/env python3
"""The polynomials of kernels/src/math.rs (erf) and kernels/src/attention/amx.rs (2^x).

Needs numpy. Each is a weighted least-squares fit whose weights are raised where the error is large
(Lawson, 1961), which ends at the polynomial with the smallest largest error.
"""
from math import erfc, log

import numpy as np
from numpy.polynomial import Polynomial, chebyshev


def nodes(count):
    return np.cos((np.arange(count) + 0.5) * np.pi / count)


def erf(degree=7, limit=4.0):
    """p with erf(x) = 1 - e^(x p(x)) for 0 < x < limit, least error in erf."""
    s = nodes(6000)
    t = (s + 1) / 2 * limit
    wanted = np.array([log(erfc(x)) / x for x in t])
    # An error of p becomes an error of erf times x erfc(x).
    scale = t * np.array([erfc(x) for x in t])
    basis, weight = chebyshev.chebvander(s, degree), scale.copy()
    for _ in range(300):
        c, *_ = np.linalg.lstsq(basis * weight[:, None], wanted * weight, rcond=None)
        error = np.abs(basis @ c - wanted) * scale
        weight = np.maximum(weight * (0.3 + error / error.max()) ** 0.5, 1e-12 * weight.max())
    return Polynomial(chebyshev.cheb2poly(c))(Polynomial([-1, 2 / limit])).coef, error.max()


def exp2(degree=3):
    """p(x) = 2^x for -1/2 <= x <= 1/2, least relative error."""
    x = nodes(4001) / 2
    basis, weight = np.vander(x, degree + 1, increasing=True) / (2.0**x)[:, None], np.ones(len(x))
    for _ in range(500):
        c, *_ = np.linalg.lstsq(basis * weight[:, None], weight, rcond=None)
        error = np.abs(basis @ c - 1)
        weight = weight * (0.2 + error / error.max()) ** 0.5
        weight /= weight.mean()
    return c, error.max()


for name, (coefficients, error) in (("erf", erf()), ("2^x", exp2())):
    print(f"{name}: error {error:.2g}, from the lowest power: {[float(np.float32(c)) for c in coefficients]}")

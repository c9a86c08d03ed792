"""Powers that explain the energy of windows: least squares, and the interval of each power that the windows allow.

A window is a row: seconds that each of k kinds of work had in it, and its joules. Three things keep the powers from
being known exactly, and all three are in the intervals:
- residuals: powers change, readings are rounded. Profile likelihood (Venzon and Moolgavkar 1988): all values with which
  the other powers still explain the windows nearly as well as the best ones do.
- when within an interval of its record a kernel ran, and when exactly a window began. Powers p leave a window open by
  at most what a piece of time of unknown content at its ends may hold; any powers are allowed that explain the windows
  to within that (errors of bounded size, not independent ones: they may all point the same way).
- that all windows are dated too early or late by the same, which is for energy_kernels to try.
"""

from typing import NamedTuple

import numpy as np

SIGMAS = 3.0
"""Half width of the intervals, in standard deviations of the residuals."""
_BLOCK = 20  # windows: residuals that hang together over this many are noticed
_LEAST_SIGMA_J = 1e-3  # what counters are rounded to


class Windows(NamedTuple):
    """m windows and k kinds of work."""

    seconds: np.ndarray
    """float64 (m, k)."""
    joules: np.ndarray
    """float64 (m,)."""
    open: np.ndarray
    """float64 (k, k), s^2: with powers p, p' open p is the sum over the windows of the squares of what is left open."""
    total_s: np.ndarray
    """float64 (k,): seconds of each kind in all of the run."""
    total_j: float
    total_open_j: float
    """The energy of the run and its bound."""
    floor_w: float
    """No kind draws less."""


class Fit(NamedTuple):
    """Of k powers."""

    watts: np.ndarray
    """float64 (k,)."""
    squares: float
    """Sum of squares that they leave of the windows, J^2."""
    allowed: float
    """Sum of squares up to which other powers count as explaining the windows, before what is open."""
    open_squares: float
    """What is open for these powers, J^2."""
    sigma_j: float
    """Standard deviation of what is left of a window."""


def fit(windows: Windows) -> Fit:
    """Powers by least squares, drawn to the mean power where the windows say nothing.

    The pull is what one residual weighs, and what is open at the ends of the windows. It goes with the square root of
    each kind's seconds: of powers that explain the windows equally well it takes those that give joules by time.
    """
    mean_w = windows.total_j / float(windows.total_s.sum())
    weights = np.diag(np.sqrt(windows.total_s / windows.total_s.mean()))
    unsure = _root(windows.open)
    r, z = _triangle(windows.seconds, windows.joules)
    sigma = _LEAST_SIGMA_J
    for _ in range(3):
        pull = np.concatenate([weights * (sigma / mean_w), unsure])
        goal = np.concatenate([z, pull @ np.full(len(weights), mean_w)])
        watts = _at_least(np.concatenate([r, pull]), goal, windows.floor_w)
        rest = windows.joules - windows.seconds @ watts
        squares = float(rest @ rest)
        sigma = max(_LEAST_SIGMA_J, float(np.sqrt(squares / max(1, len(rest) - len(watts)))))
    allowed = squares + SIGMAS**2 * sigma**2 * _clumping(rest)
    return Fit(watts, squares, allowed, float(watts @ windows.open @ watts), sigma)


def intervals(windows: Windows, best: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of each power, float64 (k,) watts each, with which the others can still explain the windows.

    A kind alone cannot have drawn more than all of the energy.
    """
    # The energy of the run is one more window.
    weight = SIGMAS * best.sigma_j / windows.total_open_j
    system = np.concatenate([windows.seconds, weight * windows.total_s[None]])
    r, z = _triangle(system, np.concatenate([windows.joules, [weight * windows.total_j]]))
    outside = float(np.sum(windows.joules**2) + (weight * windows.total_j) ** 2 - z @ z)  # what no powers explain
    allowed = max(best.allowed, outside)
    most = (windows.total_j + windows.total_open_j) / windows.total_s
    low, high = np.zeros(len(most)), np.zeros(len(most))
    for k in range(len(most)):
        start = float(np.clip(best.watts[k], windows.floor_w, most[k]))
        low[k] = _edge(windows, r, z, outside, allowed, k, start, windows.floor_w)
        high[k] = _edge(windows, r, z, outside, allowed, k, start, max(float(most[k]), windows.floor_w))
    return low, high


def _edge(
    windows: Windows, r: np.ndarray, z: np.ndarray, outside: float, allowed: float, k: int, start: float, end: float
) -> float:
    """The last value of power k, from the start towards the end, with which the windows are explained."""

    def explains(watts: float) -> bool:
        others = _at_least(np.delete(r, k, axis=1), z - watts * r[:, k], windows.floor_w)
        powers = np.insert(others, k, watts)
        rest = z - r @ powers
        return outside + float(rest @ rest) <= allowed + float(powers @ windows.open @ powers)

    if explains(end):
        return end
    for _ in range(24):
        middle = (start + end) / 2
        start, end = (middle, end) if explains(middle) else (start, middle)
    return end


def _at_least(system: np.ndarray, goal: np.ndarray, floor: float) -> np.ndarray:
    """Least squares of system p = goal with p >= floor."""
    from scipy.optimize import nnls  # imported here: scipy takes a while

    if not system.shape[1]:
        return np.zeros(0)
    return floor + nnls(system, goal - floor * system.sum(axis=1))[0]


def _triangle(system: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same least squares problem in as many rows as columns."""
    q, r = np.linalg.qr(system)
    return r, q.T @ goal


def _root(matrix: np.ndarray) -> np.ndarray:
    """A with A' A = matrix, which is symmetric and has no negative direction."""
    values, vectors = np.linalg.eigh(matrix)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def _clumping(rest: np.ndarray) -> float:
    """By how much sums of residuals next to each other vary more than those of independent ones; at least 1."""
    blocks = len(rest) // _BLOCK
    if blocks < 4:
        return 1.0
    sums = rest[: blocks * _BLOCK].reshape(blocks, _BLOCK).sum(axis=1)
    return max(1.0, float(np.mean(sums**2) / (_BLOCK * np.mean(rest**2) + 1e-30)))

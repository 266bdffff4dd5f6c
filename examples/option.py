# SPDX-License-Identifier: BSD-3-Clause
"""What a call option is worth: Monte Carlo beside the formula of Black and Scholes.

    python option.py

`self.rng` belongs to the message, not to the worker, and a deterministic `Reduce` adds in an order that does not
depend on who is ready first: the same seed gives the same bits on one worker and on a hundred.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

import palm

CALL = {"spot": 100.0, "strike": 105.0, "rate": 0.03, "vol": 0.2, "years": 1.0}


class Option(palm.Butterfly):
    @palm.function
    def payoff(
        self, paths: int, *, spot: float, strike: float, rate: float, vol: float, years: float
    ) -> NDArray[np.float64]:
        """How many paths, and the sums of what they pay today and of its squares."""
        drift = (rate - vol**2 / 2) * years
        end = spot * np.exp(drift + vol * years**0.5 * self.rng.standard_normal(paths))
        value = np.exp(-rate * years) * np.maximum(end - strike, 0)
        return np.array([paths, value.sum(), (value**2).sum()])


class Sum(palm.Reduce):
    deterministic = True

    @palm.function
    def add(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return a + b


def run(workers: int = 2, seed: int = 7) -> tuple[float, float]:
    """The value and its standard error, of 32 times 50 000 paths."""
    with palm.Cluster() as cluster:
        cluster.start(Option, workers=workers)
        cluster.start(Sum, workers=workers)
        steps = [palm.step("option.payoff", **CALL), "sum.add"]
        [(n, total, squares)] = cluster.client().job(steps, [50_000] * 32, seed=seed)
    mean = total / n
    return float(mean), float(np.sqrt((squares / n - mean**2) / n))


def black_scholes(spot: float, strike: float, rate: float, vol: float, years: float) -> float:
    spread = vol * years**0.5
    d = (np.log(spot / strike) + rate * years) / spread + spread / 2
    return float(spot * norm.cdf(d) - strike * np.exp(-rate * years) * norm.cdf(d - spread))


if __name__ == "__main__":
    value, error = run()
    print(f"Monte Carlo {value:.4f} ± {error:.4f}, Black-Scholes {black_scholes(**CALL):.4f}")

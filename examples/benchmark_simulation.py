"""CPU time of `simulate_survey` per spectrum, as a multiple of one pass of the processor over the same spectrum.

    python examples/benchmark_simulation.py --spectra 100

Both are run in turn in one process, as timings on shared machines drift; what is cached at the first call is not
counted, but printed.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from spectok_hf import SpectrumProcessor, simulate_survey
from spectok_hf.data.simulation.recipes import RECIPES
from spectok_hf.evaluation.reconstruction import format_table


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of one call.

    Args:
        action: What to call.
    """
    start = time.process_time()
    action()
    return time.process_time() - start


def measure(survey: str, processor: SpectrumProcessor, spectra: int, rounds: int) -> dict[str, object]:
    """One row of the table: medians over rounds.

    Args:
        survey: Survey to simulate.
        processor: The processor.
        spectra: Spectra per round.
        rounds: Rounds; the processor takes its turn in each.
    """
    first = cpu_seconds(lambda: simulate_survey(survey, 1))
    costs = []
    for seed in range(rounds):
        batch = simulate_survey(survey, spectra, seed=seed)
        simulated = cpu_seconds(lambda seed=seed: simulate_survey(survey, spectra, seed=seed))
        processed = cpu_seconds(lambda batch=batch: [processor(one, return_tensors="pt") for one in batch])
        costs.append((simulated, processed))
    simulated, processed = 1e3 * np.median(costs, axis=0) / spectra
    ratio = float(np.median([own / other for own, other in costs]))
    return {
        "survey": survey,
        "simulation [ms]": float(simulated),
        "processor [ms]": float(processed),
        "ratio": ratio,
        "first call [s]": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spectra", type=int, default=50, help="spectra per round and survey")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--smoke", action="store_true", help="two spectra, one round")
    args = parser.parse_args()
    spectra, rounds = (2, 1) if args.smoke else (args.spectra, args.rounds)
    processor = SpectrumProcessor()
    print(format_table([measure(survey, processor, spectra, rounds) for survey in RECIPES]))


if __name__ == "__main__":
    main()

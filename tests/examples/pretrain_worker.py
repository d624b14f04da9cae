"""examples/pretrain.py as one of several processes, which writes down the spectra that it is given to train on."""

import json
import os
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import pretrain  # noqa: E402

from spectok_hf import DataCollatorForPackedSpectra  # noqa: E402
from spectok_hf.data.mixtures import Visit  # noqa: E402

SEEN = Path(os.environ["SEEN"], f"rank-{os.environ.get('RANK', '0')}.jsonl")
collate = DataCollatorForPackedSpectra.__call__


def write_down(collator, features):
    """Collate, and write down number and identifier of each visit."""
    visits = [(visit.number, visit.what.object_id) for visit in features if isinstance(visit, Visit)]
    with SEEN.open("a") as file:
        file.writelines(json.dumps(visit) + "\n" for visit in visits)
    return collate(collator, features)


if __name__ == "__main__":
    DataCollatorForPackedSpectra.__call__ = write_down
    pretrain.launch()

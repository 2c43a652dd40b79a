"""The data agent's world under attack, and its speed (chapter 10).

    python benchmarks/bench_agents_world.py [--sequences 100000]

Plays random and adversarial calls; checks after every episode that nothing was written outside a transaction
and nothing private was read without being counted (tests/test_agents_database.py does a share of them). Then
plays oracles and counts turns per second. Writes results/bench_agents_world.json.
"""

import argparse
import json
import random
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlcourse.agents.database import DataEnv, company, make_tasks  # noqa: E402
from rlcourse.agents.database.policies import oracle, run  # noqa: E402
from tests.test_agents_database import attack  # noqa: E402


def speed(posting, episodes=3000):
    """Turns per CPU second of oracles, environments made and closed included."""
    tasks = make_tasks("train", episodes, random.Random(1), posting=posting)
    for task in tasks:
        company(task.company)  # generated once for all episodes
    start = time.process_time()
    turns = sum(len(run(oracle(task), DataEnv(task))) for task in tasks)
    return turns / (time.process_time() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sequences", type=int, default=100_000)
    count = parser.parse_args().sequences
    rng, calls = random.Random(2026), 0
    for k in range(count):
        calls += attack(rng, make_tasks("train", 1, rng, posting=k % 2 == 1)[0])
    data = {
        "sequences": count,
        "calls": calls,
        "violations": 0,  # the first one would have raised
        "turns_per_second": {"questions": speed(False), "postings": speed(True)},
        "date": str(date.today()),
        "command": "python benchmarks/bench_agents_world.py",
    }
    (ROOT / "results" / "bench_agents_world.json").write_text(json.dumps(data, indent=1) + "\n")
    print(data)


if __name__ == "__main__":
    main()

"""Search train.lr with Optuna; DVC runs each round of trials as queued experiments.

    python examples/optuna_lr.py --rounds 4 --trials 2

Needs optuna (requirements-dev.txt). Experiments are named lr-0, lr-1, ...; a failed one counts as a
failed trial. The study is in .dvc/tmp/optuna.db: the same command again continues it.
"""

import argparse
import subprocess
import sys

import dvc.api
import optuna

DVC = [sys.executable, "-m", "dvc", "exp", "run"]
STORAGE = "sqlite:///.dvc/tmp/optuna.db"


def run_round(study: optuna.Study, trials: int) -> None:
    asked = [study.ask() for _ in range(trials)]
    for trial in asked:
        lr = trial.suggest_float("train.lr", 1e-4, 1e-2, log=True)
        name = f"lr-{trial.number}"
        subprocess.run([*DVC, "--queue", "--name", name, "-S", f"train.lr={lr:.3g}"], check=True)
    subprocess.run([*DVC, "--run-all"])  # its exit code is that of all experiments together
    rows = dvc.api.exp_show()  # that of a failed experiment has the AP in git, of another run
    ap = {row["Experiment"]: row["AP"] for row in rows if row["State"] == "Success"}
    for trial in asked:
        value = ap.get(f"lr-{trial.number}")
        study.tell(trial, value, None if value is not None else optuna.trial.TrialState.FAIL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="Optuna learns from each (4)")
    parser.add_argument("--trials", type=int, default=2, help="experiments per round (2)")
    arguments = parser.parse_args()
    search = optuna.create_study(
        storage=STORAGE,
        sampler=optuna.samplers.TPESampler(seed=0),
        study_name="lr",
        direction="maximize",
        load_if_exists=True,
    )
    for _ in range(arguments.rounds):
        run_round(search, arguments.trials)
    print(search.trials_dataframe(attrs=("number", "value", "params", "state")))

"""What each part of `mer-small` is worth: 5-fold cross-validation by artist over the 676 clips of the 4Q dataset.

    python benchmarks/small.py --data DATA --game GAME --work WORK [--variants NAME ...] [--seeds 3] [--epochs 40]

Data and folders as for `mer.scripts.train_small`, which does the training: a run for every variant, fold and seed, each
of which resumes where it was cut; those that are done are only read. Printed: mean over the seeds of the mean over the
folds (weighted by their clips), its standard deviation over seeds, the millions of parameters, and the encoder's
milliseconds for 30 s of music. Nothing is chosen within a run: the last epoch counts.

Below the table, of each variant: the expected calibration error of the quadrants' probabilities on held-out clips (mean
of the four). Valence and arousal are on the side that they are with the sigmoid of their distance from 5, over a
temperature, and a quadrant's probability is the product of both; for a fold the temperatures are those under which the
other folds' quadrants are likeliest.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from mer.scripts import train_small
from mer.training.metrics import expected_calibration_error
from scipy.optimize import minimize
from scipy.special import expit

VARIANTS = {
    "as shipped": [],
    "small encoder": ["--size", "small"],
    "large encoder": ["--size", "large"],
    "without chords and mode": ["--without", "chords", "mode"],
    "without the embedding teacher": ["--without", "embedding"],
    "without the tag teacher": ["--without", "tags"],
    "without the V/A teacher": ["--without", "va"],
    "without the four-class head": ["--without", "four"],
    "without the mood words": ["--without", "words"],
    "without game music": ["--without", "game"],
    "without augmentation": ["--without", "augmentation"],
    "published distillation": ["--paper"],
}
METRICS = {"quadrant": "quadrant", "f1": "macro-F1", "arousal": "arousal side", "valence": "valence side"}
METRICS |= {"spearman": "tags: Spearman"}


def run_name(variant, fold, seed):
    """The name of a run's files."""
    return f"{variant.replace(' ', '-').replace('/', '')}-fold{fold}-seed{seed}"


def run(args, variant, fold, seed):
    """Train, or read what was trained: the results of the last epoch."""
    name = run_name(variant, fold, seed)
    log = args.work / f"{name}.log"
    last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1]) if log.exists() else {}
    if last.get("epoch") != args.epochs:
        options = {"--data": args.data, "--game": args.game, "--work": args.work, "--name": name, "--fold": fold}
        options |= {"--seed": seed, "--epochs": args.epochs}
        train_small.main([str(word) for pair in options.items() for word in pair] + VARIANTS[variant])
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        (args.work / f"{name}.pt").unlink()
    return last


def quadrant_probabilities(valence_arousal, temperatures):
    """[valence, arousal] (n, 2) on 1-9 -> probabilities of Q1 to Q4 (n, 4)."""
    valence, arousal = expit((valence_arousal - 5) / temperatures).T
    pleasant = np.stack((valence, 1 - valence, 1 - valence, valence), 1)
    return pleasant * np.stack((arousal, arousal, 1 - arousal, 1 - arousal), 1)


def calibration(args, variant, quadrants):
    """Expected calibration error of held-out quadrants, with the temperatures of the other folds and without any.

    Args:
        quadrants (`dict[str, int]`): 0 to 3 of each clip.
    """
    errors = {"with": [], "without": []}
    for seed in range(args.seeds):
        folds = []
        for fold in range(train_small.FOLDS):
            with np.load(args.work / f"{run_name(variant, fold, seed)}.npz", allow_pickle=False) as held_out:
                truth = np.eye(4)[[quadrants[track] for track in held_out["track"].tolist()]]
                folds.append((truth, held_out["valence_arousal"]))
        truth = np.concatenate([labels for labels, _ in folds])
        found = []
        for fold, (_, va) in enumerate(folds):
            others = [np.concatenate(parts) for parts in zip(*folds[:fold], *folds[fold + 1 :])]

            def surprise(logarithms):
                probabilities = quadrant_probabilities(others[1], np.exp(logarithms))
                return -np.log((probabilities * others[0]).sum(1) + 1e-9).mean()

            found.append(quadrant_probabilities(va, np.exp(minimize(surprise, np.zeros(2), method="Nelder-Mead").x)))
        errors["with"].append(expected_calibration_error(truth, np.concatenate(found)))
        plain = quadrant_probabilities(np.concatenate([va for _, va in folds]), 1.0)
        errors["without"].append(expected_calibration_error(truth, plain))
    return {name: statistics.mean(values) for name, values in errors.items()}


def cost(variant):
    """Millions of parameters of a variant, and milliseconds that its encoder takes for 30 s."""
    args = train_small.parse_arguments(["--data", ".", "--game", ".", "--work", ".", *VARIANTS[variant]])
    model = train_small.MERForAudioClassification(train_small.make_config(args)).eval()
    audio, times = torch.randn(1, 1, 30 * 16000), []
    with torch.no_grad():
        for _ in range(10):
            start = time.perf_counter()
            model.encode(audio)
            times.append(time.perf_counter() - start)
    return sum(p.numel() for p in model.parameters()) / 1e6, 1000 * statistics.median(times)


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--data", "--game", "--work"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)
    rows = []
    for variant in args.variants:
        by_seed = []
        for seed in range(args.seeds):
            folds = [run(args, variant, fold, seed) for fold in range(train_small.FOLDS)]
            clips = sum(fold["clips"] for fold in folds)
            by_seed.append({name: sum(fold[name] * fold["clips"] for fold in folds) / clips for name in METRICS})
        cells = []
        for name in METRICS:
            values = [result[name] for result in by_seed]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        size, milliseconds = cost(variant)
        rows.append(f"| {variant} | {' | '.join(cells)} | {size:.2f} | {milliseconds:.0f} |")
    print(f"{args.seeds} seeds, {args.epochs} epochs, {torch.get_num_threads()} threads\n")
    print(f"| | {' | '.join(METRICS.values())} | M parameters | ms for 30 s |")
    print("|---" * (len(METRICS) + 3) + "|")
    print("\n".join(rows))
    quadrants = {row["track"]: row["quadrant"] for row in train_small.read_data(args.data, args.game)}
    print()
    for variant in args.variants:
        error = calibration(args, variant, quadrants)
        plain = f"without temperatures {error['without']:.3f}"
        print(f"{variant}: calibration error of the quadrants {error['with']:.3f}, {plain}")


if __name__ == "__main__":
    main()

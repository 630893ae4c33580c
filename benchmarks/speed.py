"""How fast the embedded model is, and how much memory it takes.

    python benchmarks/speed.py [--seconds 10 30 240 3600] [--repeats 3] [--model DIR_OR_ID]

For every length, a stereo MP3 at 44.1 kHz is made of the sample pieces; a fresh process loads the model, warms up on
one second, and times each stage alone and then everything together, in which harmony runs beside the encoder. Printed:
seconds for every stage (median over the repeats, with the range of the total), how many times faster than real time the
whole is, and the peak of resident memory above that of the warm process, beside what the waveform itself takes (float32
at 44.1 kHz, and at the encoder's rate).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
RATE = 44100


def make_clip(path, seconds):
    """Write the sample pieces one after the other, again and again, as an MP3 of so many seconds."""
    pieces = [soundfile.read(ROOT / "samples" / f"{name}.ogg", dtype="float32")[0] for name in ("bright", "dark")]
    left = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 2, format="MP3") as file:
        while left > 0:
            for piece in pieces:
                file.write(piece[:left])
                left = max(0, left - len(piece))
                if left == 0:
                    break


def measure(path, model, repeats):
    """Time each stage of one clip in this process; returns a dict of lists of seconds, and of megabytes."""
    import torch
    from mer.feature_extraction_mer import load_audio
    from mer.scripts.predict import load_pipeline

    pipe = load_pipeline(model)
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    pipe({"array": noise, "sampling_rate": RATE})
    warm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = {"decode": [], "harmony": [], "encoder": [], "total": []}
    for _ in range(repeats):
        start = time.perf_counter()
        pipe(path)
        times["total"].append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats):
        start = time.perf_counter()
        waveform, rate = load_audio(path)
        times["decode"].append(time.perf_counter() - start)
        start = time.perf_counter()
        pipe.feature_extractor.recognize_harmony(waveform, rate)
        times["harmony"].append(time.perf_counter() - start)
        start = time.perf_counter()
        features = pipe.feature_extractor.segment([waveform], rate)
        with torch.no_grad():
            pipe.model.encode(*(torch.from_numpy(features[name]) for name in ("input_values", "lengths")))
        times["encoder"].append(time.perf_counter() - start)
    duration = len(waveform) / rate
    return {
        "seconds": duration,
        **times,
        "memory": (peak - warm) / 1024,
        "waveform": duration * 4 * (RATE + pipe.feature_extractor.sampling_rate) / 2**20,
        "threads": torch.get_num_threads(),
    }


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 30, 240, 3600])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default=str(ROOT))
    parser.add_argument("--clip", help=argparse.SUPPRESS)  # the fresh process of one length
    args = parser.parse_args(argv)
    if args.clip:
        print(json.dumps(measure(args.clip, args.model, args.repeats)))
        return
    print(f"{'clip':>7} {'decode':>8} {'harmony':>8} {'encoder':>8} {'total':>8} {'(range)':>15} {'real time':>10}", end="")
    print(f" {'memory':>9} {'waveforms':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in args.seconds:
            path = Path(folder) / f"{seconds:g}.mp3"
            make_clip(path, seconds)
            command = [sys.executable, __file__, "--clip", str(path), "--model", args.model]
            repeats = args.repeats if seconds < 1000 else 1
            done = subprocess.run([*command, "--repeats", str(repeats)], stdout=subprocess.PIPE, check=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            middle = {name: statistics.median(row[name]) for name in ("decode", "harmony", "encoder", "total")}
            spread = f"({min(row['total']):.2f}-{max(row['total']):.2f})"
            print(f"{seconds:6g}s" + "".join(f" {value:7.2f}s" for value in middle.values()), end="")
            print(f" {spread:>15} {row['seconds'] / middle['total']:8.0f} x", end="")
            print(f" {row['memory']:6.0f} MB {row['waveform']:7.0f} MB", flush=True)
    print(f"{row['threads']} threads")


if __name__ == "__main__":
    main()

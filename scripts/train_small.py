"""Train the embedded model ``mer-small``: quadrants of people, and what three teachers heard.

    python -m mer.scripts.train_small --data ../shared/data --game GAME --work WORK --out .

Needs the 4Q clips (``panda4q``), the teacher tables (``teachers``) and, under GAME, the unpacked Debian packages that
the table of game music names (``dpkg -x PACKAGE GAME/PACKAGE``). Two steps, each of which resumes where it was cut:
log-mel frames and harmony of every track into WORK, then training, a checkpoint after every epoch. The validation
split is only looked at; the last epoch is what is kept.

`--fold`, `--without`, `--size` and `--paper` are for `benchmarks/small.py`: cross-validation by artist, and what each
part is worth.
"""

import argparse
import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from tqdm import tqdm

from ..configuration_mer import QUADRANTS, MERConfig, MERMelConfig
from ..feature_extraction_mer import MERAudioError, MERFeatureExtractor, load_audio
from ..harmony_mer import Chord, Harmony, Key
from ..modeling_mer import MERForAudioClassification, mood_loss, quadrant_loss
from ..training.losses import mood_distillation_loss, valence_arousal_distillation_loss
from .export_hub import export

CROP = 500  # frames; 10 s
FLOOR = float(np.log(1e-2))  # log-mel of nothing
FOLDS = 5
# Width of the stem's stages, of the blocks, inside a block, and how many there are.
SIZES = {
    "small": ((16, 32, 64), 160, 320, 3),
    "medium": ((24, 48, 96), 256, 512, 4),
    "large": ((32, 64, 128), 384, 768, 6),
}
PARTS = ("embedding", "tags", "va", "words", "four")  # of the loss that can be left out; the signs of V and A stay
INPUTS = ("game", "chords", "mode", "augmentation")  # what else can


def extract(paths, work, extractor, encoder):
    """Write log-mel segments (S, bands, frames) float16 and harmony of each track; skip what is there."""
    work.mkdir(parents=True, exist_ok=True)
    for track, path in tqdm(paths.items(), desc="features", unit="track"):
        mel_file, harmony_file = _files(work, track)
        if mel_file.exists() and harmony_file.exists():
            continue
        try:
            waveform, rate = load_audio(path)
        except MERAudioError as error:
            tqdm.write(str(error))
            continue
        if not mel_file.exists():
            values = extractor.segment([waveform], rate)
            with torch.no_grad():
                mel = encoder.log_mel(torch.from_numpy(values["input_values"][0]))
            frames = values["lengths"][0] // encoder.config.hop_length
            temporary = mel_file.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                np.savez(file, mel=mel.numpy().astype(np.float16), frames=frames)
            os.replace(temporary, mel_file)
        if not harmony_file.exists():
            chords, key = extractor.recognize_harmony(waveform, rate)
            temporary = harmony_file.with_suffix(".tmp")
            temporary.write_text(json.dumps({"chords": chords, "key": key}), encoding="utf-8")
            os.replace(temporary, harmony_file)


def _files(work, track):
    name = track.replace("/", "__")
    return work / f"{name}.npz", work / f"{name}.json"


def read_data(data, game):
    """Rows of both bodies of music: track, path, start, teacher columns, quadrant (0-3, -100 unknown), people's mood
    and genre words (1, 0, NaN unknown), split."""
    with open(data / "panda4q" / "labels.csv", encoding="utf-8", newline="") as file:
        labels = {row["clip_id"]: row for row in csv.DictReader(file)}
    counts = Counter(word for row in labels.values() if row["split"] == "train" for word in _words(row))
    vocabulary = sorted(word for word, count in counts.items() if count >= 8)
    rows = []
    for body in ("panda4q", "game_music"):
        with np.load(data / "teachers" / f"{body}.npz", allow_pickle=False) as table:
            columns = {name: table[name] for name in table.files}
        for index, track in enumerate(columns["track"].tolist()):
            label = labels.get(track)
            words = np.full(len(vocabulary), np.nan, dtype=np.float32)
            if label is not None:
                words = np.isin(vocabulary, _words(label)).astype(np.float32)
            rows.append(
                {
                    "track": track,
                    "path": game / track if label is None else data / "panda4q" / "audio" / f"{track}.opus",
                    "start": float(columns["start"][index]),
                    "artist": None if label is None else label["artist"] or track,
                    "quadrant": -100 if label is None else QUADRANTS.index(label["quadrant"]),
                    # Three clips name neither artist nor split: nothing ties them to the validation split.
                    "split": "train" if label is None else label["split"] or "train",
                    "mood": columns["mood"][index],
                    "va": columns["va_emomusic"][index],
                    "embedding": columns["embedding"][index],
                    "words": words,
                }
            )
    return rows


def assign_fold(rows, fold):
    """Rows with the clips of one of `FOLDS` folds as validation split and all others as training split.

    The folds are of whole artists, and alike in quadrants; they are the same whatever the seed of a training.
    """
    heard = [row for row in rows if row["quadrant"] >= 0]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    quadrants, artists = ([row[name] for row in heard] for name in ("quadrant", "artist"))
    _, held_out = list(folds.split(heard, quadrants, artists))[fold]
    validation = {heard[index]["artist"] for index in held_out}
    return [row | {"split": "validation" if row["artist"] in validation else "train"} for row in rows]


def _words(label):
    return [word.strip() for column in ("moods", "genres") for word in label[column].split(";") if word.strip()]


class Segments(torch.utils.data.Dataset):
    """Segments as tensors: random 10 s crops with augmentation for training, else whole."""

    def __init__(self, rows, work, extractor, train, seed=0, spoil=True):
        self.rows, self.train, self.seed, self.spoil, self.epoch = [], train, seed, spoil, 0
        cache = {}
        for row in rows:
            mel_file, harmony_file = _files(work, row["track"])
            if not mel_file.exists() or not harmony_file.exists():
                continue
            if row["track"] not in cache:
                with np.load(mel_file, allow_pickle=False) as stored:
                    cache[row["track"]] = stored["mel"], stored["frames"], json.loads(harmony_file.read_text())
            mel, frames, harmony = cache[row["track"]]
            index = round(row["start"] / extractor.segment_seconds)
            if index >= len(mel):
                continue
            end = row["start"] + extractor.segment_seconds
            chords = [Chord(*chord) for chord in harmony["chords"] if chord[1] > row["start"] and chord[0] < end]
            encoded = extractor.encode_harmony([Harmony(chords, harmony["key"] and Key(*harmony["key"]))])
            self.rows.append(row | {"mel": mel[index, :, : frames[index] + 1], "harmony": encoded})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        mel = torch.from_numpy(row["mel"]).float()
        chords = torch.zeros(3, 100, dtype=torch.long)
        names = ("chord_root_ids", "chord_quality_ids", "chord_mask")
        found = torch.from_numpy(np.concatenate([row["harmony"][name] for name in names]))
        chords[:, : found.shape[1]] = found
        if self.train:
            random = np.random.default_rng((self.seed, self.epoch, index))
            mel = crop(mel, random)
            mel = augment(mel, random) if self.spoil else mel
            if self.spoil and random.random() < 0.3:
                chords[2] = 0
        return {
            "mel": mel,
            "chords": chords,
            "mode": torch.tensor(int(row["harmony"]["mode_ids"][0])),
            "quadrant": torch.tensor(row["quadrant"]),
            "mood": torch.from_numpy(row["mood"]),
            "va": torch.from_numpy(row["va"]),
            "embedding": torch.from_numpy(row["embedding"]),
            "words": torch.from_numpy(row["words"]),
        }


def crop(mel, random):
    """Random crop of log-mel (bands, frames) to `CROP` frames."""
    if mel.shape[1] < CROP:
        mel = nn.functional.pad(mel, (0, CROP - mel.shape[1]), value=FLOOR)
    start = random.integers(mel.shape[1] - CROP + 1)
    return mel[:, start : start + CROP].clone()


def augment(mel, random):
    """Log-mel (bands, `CROP`) with the gain, tilt, noise, band limit and gaps of real recordings."""
    bands = len(mel)
    place = torch.linspace(-1, 1, bands).unsqueeze(1)
    mel += random.normal(0, 0.7) + random.normal(0, 0.5) * place
    mel += random.normal(0, 0.5) * torch.exp(-((place - random.uniform(-1, 1)) ** 2) / 0.05)  # one resonance
    if random.random() < 0.2:
        mel = torch.logaddexp(mel, torch.tensor(random.uniform(FLOOR, 1.0), dtype=torch.float32))
    mel = mel.clamp(min=FLOOR)
    if random.random() < 0.2:
        mel[random.integers(bands * 5 // 8, bands) :] = FLOOR
    for _ in range(2):
        if random.random() < 0.5:
            first = random.integers(bands - 8)
            mel[first : first + random.integers(1, 9)] = mel.mean()
        if random.random() < 0.5:
            first = random.integers(CROP - 40)
            mel[:, first : first + random.integers(1, 41)] = mel.mean()
    return mel


class Student(nn.Module):
    """The model with the heads that exist in training only: the teacher's embedding, four quadrants at once, words."""

    def __init__(self, config, words):
        super().__init__()
        self.model = MERForAudioClassification(config)
        self.embedding_head = nn.Linear(config.embedding_size, 200)
        self.quadrant_head = nn.Linear(config.trunk_size, 4)
        self.word_head = nn.Linear(config.trunk_size, words)

    def forward(self, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.training):
            hidden_states = self.model.mer.encoder.forward_mel(batch["mel"])
        segments = torch.cat([hidden_states[layer].float().mean(1) for layer in self.model.config.layers], dim=-1)
        roots, qualities, mask = batch["chords"].unbind(1)
        output = self.model(
            segment_embeddings=segments.unsqueeze(1),
            chord_root_ids=roots,
            chord_quality_ids=qualities,
            chord_mask=mask,
            mode_ids=batch["mode"],
        )
        aside = self.embedding_head(segments), self.quadrant_head(output.embedding), self.word_head(output.embedding)
        return output, *aside


def losses(student, batch, statistics, paper=False):
    """The parts of the training loss of one batch; with `paper`, teachers are heard by the published losses."""
    output, embedding, quadrants, words = student(batch)
    soft = batch["mood"].clamp(1e-5, 1 - 1e-5)
    known = batch["quadrant"] >= 0
    # People decide the signs; where they spoke, the V/A teacher (weak on valence) only keeps the scale.
    weights = torch.where(known.unsqueeze(1), torch.tensor([0.05, 0.2]), torch.tensor([0.3, 0.6]))
    parts = {
        "embedding": (embedding - (batch["embedding"] - statistics["mean"]) / statistics["std"]).square().mean(),
        "tags": (
            nn.functional.binary_cross_entropy_with_logits(output.logits, soft, reduction="none")
            - nn.functional.binary_cross_entropy(soft, soft, reduction="none")
        ).sum(1).mean(),
        "tag_logits": 0.3 * ((output.logits - soft.logit()) / statistics["logit_std"]).square().mean(),
        "va": (weights * (output.valence_arousal - batch["va"]).square()).mean(),
        "signs": quadrant_loss(output.valence_arousal, batch["quadrant"]),
        "words": 2 * mood_loss(words, batch["words"]),
    }  # fmt: skip
    if paper:
        parts["tags"] = mood_distillation_loss(output.logits, soft.logit(), "paper")
        parts["va"] = valence_arousal_distillation_loss(output.valence_arousal, batch["va"], "paper")
        del parts["tag_logits"]
    if known.any():
        parts["four"] = 0.5 * nn.functional.cross_entropy(
            quadrants[known], batch["quadrant"][known], label_smoothing=0.1
        )
    return parts


@torch.no_grad()
def hear(student, dataset):
    """What the student says of whole segments: tag logits (n, 56), [valence, arousal] (n, 2), logits of the training
    head of quadrants (n, 4), arrays."""
    student.eval()
    heard = []
    for item in dataset:
        output, _, quadrants, _ = student({name: value.unsqueeze(0) for name, value in item.items()})
        heard.append((output.logits[0], output.valence_arousal[0], quadrants[0]))
    student.train()
    return tuple(torch.stack(values).numpy() for values in zip(*heard))


def validate(heard, dataset):
    """Quadrant accuracy from the signs of V - 5 and A - 5, of each side, and Spearman to the tag teacher, of what
    [`hear`] returned of the dataset."""
    tags, va, _ = heard
    positive = va > 5
    quadrant = np.array([row["quadrant"] for row in dataset.rows])
    right = positive == np.stack((np.isin(quadrant, (0, 3)), np.isin(quadrant, (0, 1))), 1)
    teacher = np.stack([row["mood"] for row in dataset.rows])
    correlation = [spearmanr(tags[:, tag], teacher[:, tag])[0] for tag in range(teacher.shape[1])]
    signs = np.array([[2, 1], [3, 0]])[positive[:, 0].astype(int), positive[:, 1].astype(int)]
    return {
        "clips": len(quadrant),
        "quadrant": right.all(1).mean(),
        "f1": f1_score(quadrant, signs, average="macro", zero_division=0),
        "valence": right[:, 0].mean(),
        "arousal": right[:, 1].mean(),
        "spearman": np.mean(correlation),
    }


def train(rows, extractor, config, work, name, epochs, batch_size, learning_rate, seed, log, without=(), paper=False):
    """Train with a checkpoint after every epoch, less the parts `without`; returns the student."""
    torch.manual_seed(seed)
    heard = [row for row in rows if row["split"] == "train" and ("game" not in without or row["quadrant"] >= 0)]
    dataset = Segments(heard, work / "features", extractor, True, seed, "augmentation" not in without)
    held_out = Segments([row for row in rows if row["split"] == "validation"], work / "features", extractor, False)
    embedding = np.stack([row["embedding"] for row in dataset.rows])
    mood = torch.from_numpy(np.stack([row["mood"] for row in dataset.rows])).clamp(1e-5, 1 - 1e-5)
    statistics = {
        "mean": torch.from_numpy(embedding.mean(0)),
        "std": torch.from_numpy(embedding.std(0) + 1e-3),
        "logit_std": mood.logit().std(0),
    }
    # A clip with people's labels is heard twice an epoch.
    order = [i for i, row in enumerate(dataset.rows) for _ in range(2 if row["quadrant"] >= 0 else 1)]
    student = Student(config, len(dataset.rows[0]["words"]))
    steps = len(order) // batch_size
    decayed = [p for p in student.parameters() if p.ndim > 1]
    rest = [p for p in student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * steps, pct_start=0.15)
    checkpoint, first = work / f"{name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    heard = sum(row["quadrant"] >= 0 for row in dataset.rows)
    hours = sum(row["mel"].shape[1] for row in dataset.rows if row["quadrant"] < 0) / 50 / 3600
    log(f"training: {heard} clips with people's labels, {hours:.1f} hours without; {len(held_out)} validation clips")
    log(f"{steps} steps an epoch")
    tracks = [row["track"] for row in held_out.rows]
    for epoch in range(first, epochs):
        torch.manual_seed(seed * 1000 + epoch)
        dataset.epoch = epoch
        shuffled = np.random.default_rng((seed, epoch)).permutation(order)[: steps * batch_size]
        loader = torch.utils.data.DataLoader(dataset, batch_size, sampler=shuffled.tolist())
        sums = {}
        for batch in tqdm(loader, desc=f"{name} epoch {epoch + 1}/{epochs}", unit="step", mininterval=5):
            parts = losses(student, batch if "augmentation" in without else mix(batch), statistics, paper)
            parts = {part: value for part, value in parts.items() if part.replace("tag_logits", "tags") not in without}
            optimizer.zero_grad()
            sum(parts.values()).backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            for part, value in parts.items():
                sums[part] = sums.get(part, 0.0) + value.item() / steps
        said = hear(student, held_out)
        # Before the log, whose last epoch says that a run is complete.
        np.savez(work / f"{name}.npz", track=tracks, **dict(zip(("tags", "valence_arousal", "quadrants"), said)))
        result = validate(said, held_out)
        log(json.dumps({"epoch": epoch + 1, **{k: round(float(v), 4) for k, v in (sums | result).items()}}))
        state = {
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    return student.eval()


def mix(batch, strength=0.3, share=0.5):
    """Mixup of half a batch with itself in what teachers say; people's labels stay with the louder clip."""
    size = len(batch["mel"])
    weight = torch.distributions.Beta(strength, strength).sample((size,))
    weight = torch.where(torch.rand(size) < share, torch.maximum(weight, 1 - weight), torch.ones(size))
    other = torch.randperm(size)
    mixed = dict(batch)
    for name in ("mel", "mood", "va", "embedding"):
        w = weight.view(-1, *[1] * (batch[name].ndim - 1))
        mixed[name] = w * batch[name] + (1 - w) * batch[name][other]
    return mixed


def parse_arguments(argv=None):
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with panda4q and teachers")
    parser.add_argument("--game", type=Path, required=True, help="folder with the unpacked game music packages")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and checkpoints")
    parser.add_argument("--out", type=Path, help="folder that gets config, weights and preprocessor")
    parser.add_argument("--name", default="mer-small", help="name of this run's checkpoint and log")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features-only", action="store_true", help="stop before training")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="hold out this fold of artists")
    parser.add_argument("--without", nargs="+", default=(), choices=[*PARTS, *INPUTS], help="what to leave out")
    parser.add_argument("--size", choices=SIZES, default="medium", help="of the encoder")
    parser.add_argument("--paper", action="store_true", help="distil by the published losses")
    return parser.parse_args(argv)


def make_config(args):
    """Configuration of the model that the arguments ask for."""
    stem, hidden, inside, blocks = SIZES[args.size]
    encoder_config = MERMelConfig(
        stem_channels=stem, hidden_size=hidden, intermediate_size=inside, num_hidden_layers=blocks
    )
    inputs = {"use_chords": "chords" not in args.without, "use_mode": "mode" not in args.without}
    return MERConfig(encoder_config=encoder_config, head_dropout=0.2, **inputs)


def main(argv=None):
    """Command line; see the module's docstring."""
    args = parse_arguments(argv)
    config = make_config(args)
    extractor = MERFeatureExtractor(sampling_rate=config.encoder_config.sampling_rate)
    rows = read_data(args.data, args.game)
    if args.fold is not None:
        rows = assign_fold(rows, args.fold)
    encoder = MERForAudioClassification(config).mer.encoder
    extract({row["track"]: row["path"] for row in rows}, args.work / "features", extractor, encoder)
    if args.features_only:
        return

    def log(line):
        tqdm.write(line)
        with open(args.work / f"{args.name}.log", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    student = train(
        rows, extractor, config, args.work, args.name, args.epochs, args.batch_size, args.learning_rate, args.seed, log,
        args.without, args.paper,
    )  # fmt: skip
    if args.out:
        export(student.model, extractor, args.out)


if __name__ == "__main__":
    main()

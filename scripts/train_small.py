"""Train the embedded model ``mer-small``: what people said of music, and what teachers heard in it.

    python -m mer.scripts.train_small --data ../shared/data --game GAME --midi MIDI --work WORK --out .

Needs the 4Q clips (``panda4q``), the teacher tables (``teachers``) and the labels of VGMIDI (``vgmidi``) under DATA;
under GAME the unpacked Debian packages that the table of game music names (``dpkg -x PACKAGE GAME/PACKAGE``); and under
MIDI the folders ``vgmidi`` and ``emopia`` that `mer.scripts.render_midi` fills (without --midi, neither is heard); and
WORK/tagger.npz, which `mer.scripts.tagging_teacher` makes.

Steps, each of which resumes where it was cut: log-mel frames and harmony of every track into WORK; pretraining on what
the teachers heard in the game music, once for all runs of a size; training on everything, a checkpoint after every
epoch. The validation split is only looked at; kept is what the last epoch ends with, the average of the weights since the
rate stays constant. A GPU is used where there is one.

`--fold`, `--without`, `--size` and `--paper` are for `benchmarks/small.py`: cross-validation by artist, and what each
part is worth.
"""

import argparse
import copy
import csv
import json
import math
import os
import zlib
from collections import Counter
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, r2_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from ..configuration_mer import QUADRANTS, MERConfig, MERMelConfig
from ..feature_extraction_mer import MERAudioError, MERFeatureExtractor, load_audio
from ..harmony_mer import NO_CHORDS, NO_TONALITY, Chord, Harmony, Key
from ..modeling_mer import MERForAudioClassification, mood_loss, quadrant_loss
from ..training.losses import mood_distillation_loss, valence_arousal_distillation_loss
from .export_hub import export
from .predict import keep_memory

CROP = 500  # frames; 10 s
FLOOR = float(np.log(1e-2))  # log-mel of nothing
FOLDS = 5
HEARD = (200, 306, 306, 200)  # numbers that each of the tagging networks gives
EMBEDDING = sum(HEARD)
PATCH, PATCHES, WINDOWS = 149.6, 10, 3  # frames of what they hear at once; such pieces of 30 s, and of a crop
EPOCHS, PRETRAINING_EPOCHS = 50, 80
AVERAGED, AVERAGED_RATE = 1 / 5, 0.1  # of the epochs, the last, whose weights are averaged; of the highest rate, there
# Width of the stem's stages, of the blocks, inside a block, and how many there are.
SIZES = {
    "small": ((16, 32, 64), 160, 320, 3),
    "medium": ((24, 48, 96), 256, 512, 4),
    "large": ((32, 64, 128), 384, 768, 4),
}
PARTS = ("embedding", "tags", "va", "words", "directions")  # of the loss that can be left out; people's quadrants stay
# What else can.
OTHERS = ("game", "emopia", "vgmidi", "pretraining", "probe", "chords", "mode", "tonality", "altered", "worse")
MUON_RATE = 0.03
PROBE_C = 0.02  # of the teacher of quadrants
LOG_ODDS = 0.55  # points of valence or arousal for one of a probe's
# How often an epoch hears 30 s of a body of music.
SHARES = {"panda4q": 1, "altered": 0.5, "game_music": 0.5, "emopia": 0.25, "vgmidi": 0.5}
VERSIONS = 2  # of each 4Q clip, altered
VALIDATE_EVERY = 10  # epochs
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def alter(waveform, rate, random):
    """Music as it might sound elsewhere: up to four semitones higher and faster or lower and slower, through tone
    controls, at times dull, thin or noisy.

    Args:
        waveform (array `(n,)`): mono.
        rate (`int`): of it, Hz.
        random (`numpy.random.Generator`): what draws.

    Returns:
        At most 30 s of the altered waveform, float32, and its rate.
    """
    decibels = tone(np.fft.rfftfreq(len(waveform), 1 / rate), random)
    altered = np.fft.irfft(np.fft.rfft(waveform) * 10 ** (decibels / 20), len(waveform))
    if random.random() < 0.2:
        altered += random.normal(0, altered.std() * 10 ** (-random.uniform(15, 40) / 20), len(altered))
    rate = round(rate * 2 ** random.uniform(-1 / 3, 1 / 3))
    return altered[: 30 * rate].astype(np.float32), rate


def tone(frequencies, random):
    """Decibels at frequencies (n,) in Hz, of tone controls and of what a dull or thin recording leaves."""
    octaves = np.log2(np.maximum(frequencies, 20) / 1000)
    decibels = random.normal(0, 1.5) * octaves
    for _ in range(2):
        decibels += random.normal(0, 5) * np.exp(-(((octaves - random.uniform(-4, 3)) / 0.7) ** 2))
    if random.random() < 0.2:
        decibels -= 24 * (octaves - random.uniform(1.3, 3)).clip(min=0)  # an octave; from 2.5 to 8 kHz on
    if random.random() < 0.1:
        decibels -= 24 * (random.uniform(-3.3, -1.7) - octaves).clip(min=0)  # below 100 to 300 Hz
    return decibels


def degrade(mel, frequencies, random):
    """Log-mel frames as a worse copy of the same music has them: other tone controls, at times without the highest
    frequencies, as in old or small files, or with noise.

    Args:
        mel (tensor `(bands, frames)`): of audio of unit variance, which the answer is as well.
        frequencies (array `(bands,)`): of the bands, Hz.
        random (`numpy.random.Generator`): what draws.
    """
    decibels = tone(frequencies, random)
    if random.random() < 0.4:
        edge, slope = random.uniform(1500, 7500), random.choice((24, 300))  # decibels an octave
        decibels -= slope * np.log2(frequencies / edge).clip(min=0)
    before = power = (mel.exp() - math.exp(FLOOR)).clamp(min=0)
    power = power * torch.from_numpy(10 ** (decibels / 10)).float()[:, None]
    if random.random() < 0.4:
        # White noise is as strong in all bands, and fluctuates, as a band sums few bins of the spectrum.
        level = power.mean() * 10 ** (-random.uniform(0, 3))
        power = power + level * torch.from_numpy(random.gamma(3, 1 / 3, power.shape)).float()
    width = torch.from_numpy(np.gradient(frequencies)).float()[:, None]
    gain = (width * before).sum() / (width * power).sum().clamp(min=1e-6)
    return (power * gain + math.exp(FLOOR)).log()


def load_track(row):
    """Waveform and rate of what a row of [`read_data`] is of: a file, or an altered version of it."""
    waveform, rate = load_audio(row["path"])
    if row["version"]:
        seed = zlib.crc32(row["track"].encode())
        waveform, rate = alter(waveform, rate, np.random.default_rng(seed))
    return waveform, rate


def extract(rows, work, extractor, encoder):
    """Write log-mel segments (S, bands, frames) float16 and harmony of each row's track; skip what is there."""
    work.mkdir(parents=True, exist_ok=True)
    tracks = {row["track"]: row for row in rows}
    for track, row in tqdm(tracks.items(), desc="features", unit="track"):
        mel_file, harmony_file = _files(work, track)
        if mel_file.exists() and harmony_file.exists():
            continue
        try:
            waveform, rate = load_track(row)
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
            harmony = extractor.recognize_harmony(waveform, rate)
            temporary = harmony_file.with_suffix(".tmp")
            temporary.write_text(json.dumps(harmony._asdict()), encoding="utf-8")
            os.replace(temporary, harmony_file)


def _files(work, track):
    name = track.replace("/", "__")
    return work / f"{name}.npz", work / f"{name}.harmony.json"


def read_data(data, game, midi=None, tagger=None):
    """One row for every 30 s of all bodies of music, a `dict` of

    - `body`, `track`, `path`, `start` (seconds), `split`, `group` (what folds keep together);
    - `mood` (56,), `va` (2,): the stored teachers' answers; `patches` (10, EMBEDDING): what the tagging networks heard
      in each 3 s, if their file `tagger` is given, and `embedding` (EMBEDDING,), the mean of it; NaN where there are none;
    - `quadrant`, of people, in the 4Q dataset; `piano`, the quadrant in EMOPIA: 0-3, -100 = unknown;
    - `words` (people's mood and genre words: 1, 0) and `rated` ([valence, arousal] of -1..1): NaN = unknown;
    - `version`: 0, or which of `VERSIONS` altered versions ([`load_track`]) of the clip `of` this is, a row of the body
      "altered" that only the tagging networks speak about.

    Raises `ValueError` if `tagger` was written of other networks.
    """
    with open(data / "panda4q" / "labels.csv", encoding="utf-8", newline="") as file:
        labels = {row["clip_id"]: row for row in csv.DictReader(file)}
    counts = Counter(word for row in labels.values() if row["split"] == "train" for word in _words(row))
    vocabulary = sorted(word for word, count in counts.items() if count >= 8)
    nothing = {"split": "train", "group": None, "quadrant": -100, "piano": -100, "version": 0}
    for name, size in (("mood", 56), ("va", 2), ("embedding", EMBEDDING), ("words", len(vocabulary)), ("rated", 2)):
        nothing[name] = np.full(size, np.nan, dtype=np.float32)
    nothing["patches"] = np.full((PATCHES, EMBEDDING), np.nan, dtype=np.float32)
    heard = {}
    if tagger is not None:
        with np.load(tagger, allow_pickle=False) as table:
            said = table["tagger"].astype(np.float32)
            if said.shape[2] != EMBEDDING:
                raise ValueError(
                    f"{tagger} is of other tagging networks: {said.shape[2]} numbers in place of {EMBEDDING}. "
                    "Run mer.scripts.tagging_teacher, and all that follows, with a new folder as --work."
                )
            places = zip(table["track"].tolist(), table["start"].tolist())
            heard = dict(zip(places, said))
    rows = []
    for body in ("panda4q", "game_music"):
        with np.load(data / "teachers" / f"{body}.npz", allow_pickle=False) as table:
            columns = {name: table[name] for name in table.files}
        for index, track in enumerate(columns["track"].tolist()):
            start = float(columns["start"][index])
            row = nothing | {"body": body, "track": track, "path": game / track, "start": start}
            row |= {"mood": columns["mood"][index], "va": columns["va_emomusic"][index]}
            if tagger is not None:
                row |= {"patches": heard[track, start], "embedding": np.nanmean(heard[track, start], axis=0)}
            if body == "panda4q":
                label = labels[track]
                row["path"] = data / "panda4q" / "audio" / f"{track}.opus"
                row |= {"group": label["artist"] or track, "quadrant": QUADRANTS.index(label["quadrant"])}
                # Three clips name neither artist nor split: nothing ties them to the validation split.
                row |= {"split": label["split"] or "train", "official": label["split"] == "validation"}
                row |= {"words": np.isin(vocabulary, _words(label)).astype("f4")}
            rows.append(row)
            for version in range(1, 1 + VERSIONS * (body == "panda4q")):
                name = f"{track}@{version}"
                altered = nothing | {"body": "altered", "track": name, "start": 0.0, "version": version, "of": track}
                if tagger is not None:
                    altered |= {"patches": heard[name, 0.0], "embedding": np.nanmean(heard[name, 0.0], axis=0)}
                rows.append(altered | {name: row[name] for name in ("path", "split")})
    if midi is not None:
        rows += _read_midi(data, midi, nothing)
    return rows


def _read_midi(data, midi, nothing):
    rows = []
    for path in sorted((midi / "emopia").glob("*.flac")):
        quadrant, clip = path.stem.split("_", 1)
        labels = {"body": "emopia", "group": clip.rsplit("_", 1)[0], "piano": QUADRANTS.index(quadrant)}
        rows += _segments_of(path, f"emopia/{path.stem}", nothing | labels)
    with open(data / "vgmidi" / "labels.csv", encoding="utf-8", newline="") as file:
        pieces = list(csv.DictReader(file))
    for piece in pieces:
        path = midi / "vgmidi" / f"{Path(piece['midi']).stem}.flac"
        if path.exists():
            rated = np.array([piece["valence"], piece["arousal"]], dtype=np.float32)
            labels = {"body": "vgmidi", "group": piece["series"], "rated": rated}
            rows += _segments_of(path, f"vgmidi/{piece['piece']}", nothing | labels)
    return hold_out(rows, "vgmidi", GroupKFold(FOLDS), 0)


def _segments_of(path, track, row):
    # A rest of less than 10 s is no segment of its own, but a short piece is.
    seconds = soundfile.info(path).duration
    starts = range(0, max(1, int(seconds + 20) // 30) * 30, 30)
    return [row | {"track": track, "path": path, "start": float(start)} for start in starts]


def hold_out(rows, body, folds, fold):
    """Rows with one of some folds of a body of music as validation split, and its others as training split."""
    places = [index for index, row in enumerate(rows) if row["body"] == body]
    if not places:
        return rows
    quadrants, groups = ([rows[place][name] for place in places] for name in ("quadrant", "group"))
    _, held_out = list(folds.split(places, quadrants, groups))[fold]
    splits = dict.fromkeys(places, "train") | dict.fromkeys([places[index] for index in held_out], "validation")
    return [row | {"split": splits.get(index, row["split"])} for index, row in enumerate(rows)]


def assign_fold(rows, fold, seed):
    """Rows with the clips of one of `FOLDS` folds as validation split and all others as training split.

    The folds are of whole artists and alike in quadrants, drawn by the seed, so that a mean over seeds depends little on
    one way to cut them; of VGMIDI they are of whole series, and always the same.
    """
    rows = hold_out(rows, "panda4q", StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed), fold)
    splits = {row["track"]: row["split"] for row in rows}
    rows = [row | {"split": splits[row["of"]]} if row["version"] else row for row in rows]
    return hold_out(rows, "vgmidi", GroupKFold(FOLDS), fold)


def pretrain(rows, extractor, config, args, log):
    """What teachers heard in game music, learnt once for all runs that leave the same things out; returns weights."""
    without = sorted({"embedding", "tags", "va", "chords", "mode", "tonality"} & set(args.without))
    name = "-".join(["pretrained", args.size, *(["paper"] if args.paper else []), *(f"no-{part}" for part in without)])
    checkpoint = args.work / f"{name}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=DEVICE, weights_only=True)
        if state["epoch"] == args.pretraining_epochs:
            return state["student"]
    unknown = {"quadrant": -100, "likely": np.full(4, np.nan, dtype=np.float32), "split": "train"}
    game = [row | unknown for row in rows if row["body"] == "game_music"]
    # To look at: teachers' answers to the clips that the README's figures are of.
    clips = [row | unknown | {"split": "validation"} for row in rows if row["body"] == "panda4q" and row["official"]]
    seed = argparse.Namespace(**vars(args) | {"seed": 0})
    plain = {"worse": False, "averaged": False}
    return train(game + clips, extractor, config, name, args.pretraining_epochs, seed, log, **plain).state_dict()


def teach_quadrants(rows, features, extractor, probed=True):
    """Rows with `likely`, the probabilities of Q1 to Q4 (4,), NaN but for clips of the training split and their altered
    versions: what a teacher of quadrants says of them, a probe on the other teachers' embeddings and on the harmony in
    `features` (what is counted of chords, the mode and the tonality) that learnt people's quadrants; or, unless
    `probed`, those quadrants themselves, of the clips alone.

    Other music is left out: of half the game music the probe says that it is pleasant and calm, dark music among it.
    """
    heard = [index for index, row in enumerate(rows) if row["quadrant"] >= 0 and row["split"] == "train"]
    quadrants = [rows[index]["quadrant"] for index in heard]
    likely = np.full((len(rows), 4), np.nan, dtype=np.float32)
    likely[heard] = np.eye(4)[quadrants]
    if probed:

        def blocks(chosen):
            harmony = [read_harmony(rows[index], features, extractor) for index in chosen]
            embeddings = np.array([rows[index]["embedding"] for index in chosen]).reshape(-1, EMBEDDING)
            return *networks(embeddings), _counted(harmony, ("chord_statistics", "mode_ids", "tonality"))

        weight, bias = probe(blocks(heard), quadrants)
        heard += [index for index, row in enumerate(rows) if row["version"] and row["split"] == "train"]
        likely[heard] = softmax(np.concatenate(blocks(heard), axis=1) @ weight.T + bias, axis=1)
    return [row | {"likely": said} for row, said in zip(rows, likely)]


def probe(blocks, quadrants):
    """Logistic regression of quadrants on blocks of numbers, each of which weighs the same, however many it has.

    Args:
        blocks (`list` of arrays (n, d)): what is heard.
        quadrants (`list` of `int`): 0 to 3.

    Returns:
        Weights (4, D) and biases (4,) of the quadrants' logits; of a quadrant that is not there, almost none.
    """
    scalers = [StandardScaler().fit(block) for block in blocks]
    gain = np.concatenate([10 / np.sqrt(block.shape[1]) / scaler.scale_ for block, scaler in zip(blocks, scalers)])
    mean = np.concatenate([scaler.mean_ for scaler in scalers])
    fitted = LogisticRegression(C=PROBE_C, max_iter=1000).fit((np.concatenate(blocks, axis=1) - mean) * gain, quadrants)
    weight, bias = np.zeros((4, len(gain))), np.full(4, -20.0)
    weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_ * gain, fitted.intercept_
    return weight, bias - weight @ mean


def read_harmony(row, features, extractor):
    """What the extractor makes of the chords and the key of a row's 30 s."""
    heard = json.loads(_files(features, row["track"])[1].read_text(encoding="utf-8"))
    begin, end = row["start"], row["start"] + extractor.segment_seconds
    chords = [
        Chord(max(start, begin), min(stop, end), name)
        for start, stop, name in heard["chords"]
        if stop > begin and start < end
    ]
    return extractor.encode_harmony([Harmony(chords, heard["key"] and Key(*heard["key"]), heard["tonality"])])


def _counted(harmony, names):
    # Numbers of each `read_harmony` side by side: (n, up to 13).
    columns = [np.concatenate([encoded[name] for encoded in harmony]).reshape(len(harmony), -1) for name in names]
    return np.concatenate([*columns, np.zeros((len(harmony), 0))], axis=1)


def networks(embeddings):
    """Embeddings (n, EMBEDDING) by the tagging network that they come from."""
    return np.split(embeddings, np.cumsum(HEARD)[:-1], axis=1)


def _words(label):
    return [word.strip() for column in ("moods", "genres") for word in label[column].split(";") if word.strip()]


class Segments(torch.utils.data.Dataset):
    """Segments as tensors: random 10 s crops for training, at times without chords or, if `worse`, as a worse copy, else
    whole."""

    def __init__(self, rows, work, extractor, train, seed=0, worse=True):
        self.rows, self.train, self.seed, self.worse, self.epoch = [], train, seed, worse, 0
        mel = MERMelConfig()
        bands = librosa.mel_frequencies(mel.num_mel_bins + 2, fmin=mel.min_frequency, fmax=mel.max_frequency)
        self.frequencies = bands[1:-1]
        cache = {}
        for row in rows:
            mel_file, harmony_file = _files(work, row["track"])
            if not mel_file.exists() or not harmony_file.exists():
                continue
            if row["track"] not in cache:
                with np.load(mel_file, allow_pickle=False) as stored:
                    cache[row["track"]] = stored["mel"], stored["frames"]
            mel, frames = cache[row["track"]]
            index = round(row["start"] / extractor.segment_seconds)
            if index >= len(mel):
                continue
            harmony = read_harmony(row, work, extractor)
            self.rows.append(row | {"mel": mel[index, :, : frames[index] + 1], "harmony": harmony})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        mel = torch.from_numpy(row["mel"]).float()
        chords = torch.zeros(3, 100, dtype=torch.long)
        names = ("chord_root_ids", "chord_quality_ids", "chord_mask")
        found = torch.from_numpy(np.concatenate([row["harmony"][name] for name in names]))
        chords[:, : found.shape[1]] = found
        counted, tonality = (torch.from_numpy(row["harmony"][name][0]) for name in ("chord_statistics", "tonality"))
        numbers = {name: row[name] for name in ("mood", "va", "words", "rated", "likely")}
        if self.train:
            random = np.random.default_rng((self.seed, self.epoch, index))
            mel, start = crop(mel, random)
            numbers["embedding"] = windows(row["patches"], start)
            if random.random() < 0.3:
                chords[2], counted, tonality = 0, torch.tensor(NO_CHORDS), torch.tensor(NO_TONALITY)
            if self.worse and random.random() < 1 / 6:
                mel = degrade(mel, self.frequencies, random)
        mode = torch.tensor(int(row["harmony"]["mode_ids"][0]))
        item = {"mel": mel, "chords": chords, "counted": counted, "tonality": tonality, "mode": mode}
        item |= {name: torch.tensor(row[name]) for name in ("quadrant", "piano")}
        return item | {name: torch.from_numpy(value) for name, value in numbers.items()}


def crop(mel, random):
    """Random crop of log-mel (bands, frames) to `CROP` frames, and where it begins."""
    if mel.shape[1] < CROP:
        mel = nn.functional.pad(mel, (0, CROP - mel.shape[1]), value=FLOOR)
    start = random.integers(mel.shape[1] - CROP + 1)
    return mel[:, start : start + CROP].clone(), start


def windows(patches, start):
    """What the tagging networks heard in each third of the crop that begins at a frame: their answers to patches
    (`PATCHES`, EMBEDDING), weighted by how much of each lies in it -> (`WINDOWS`, EMBEDDING)."""
    bounds = start + np.arange(WINDOWS + 1)[:, None] * CROP / WINDOWS
    heard = patches[np.isfinite(patches).all(1)]
    if not len(heard):
        return np.full((WINDOWS, EMBEDDING), np.nan, dtype=np.float32)
    edges = np.arange(len(heard) + 1) * PATCH
    shared = (np.minimum(edges[1:], bounds[1:]) - np.maximum(edges[:-1], bounds[:-1])).clip(min=0)
    shared[:, -1] += 1e-3  # a window behind the last patch is taught what was heard in that
    return (shared @ heard / shared.sum(1, keepdims=True)).astype(np.float32)


class Student(nn.Module):
    """The model, and what exists in training only: heads for the teacher's embedding and for words, and how the raters
    of each corpus of piano music use their scale."""

    def __init__(self, config, words):
        super().__init__()
        self.model = MERForAudioClassification(config)
        self.embedding_head = nn.Linear(config.embedding_size, EMBEDDING)
        self.word_head = nn.Linear(config.trunk_size, words)
        self.piano_gain, self.piano_bias = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(4))
        self.rated_gain, self.rated_bias = nn.Parameter(torch.full((2,), 0.2)), nn.Parameter(torch.zeros(2))

    def forward(self, batch):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=self.training):
            hidden_states = self.model.mer.encoder.forward_mel(batch["mel"])
        segments = torch.cat([hidden_states[layer].float().mean(1) for layer in self.model.config.layers], dim=-1)
        longest = max(1, int(batch["chords"][:, 2].sum(1).max()))
        roots, qualities, mask = batch["chords"][:, :, :longest].unbind(1)
        output = self.model(
            segment_embeddings=segments.unsqueeze(1),
            chord_root_ids=roots,
            chord_quality_ids=qualities,
            chord_mask=mask,
            chord_statistics=batch["counted"],
            tonality=batch["tonality"],
            mode_ids=batch["mode"],
        )
        last = torch.cat([hidden_states[layer].float() for layer in self.model.config.layers], dim=-1)
        pieces = nn.functional.adaptive_avg_pool1d(last.transpose(1, 2), WINDOWS).transpose(1, 2)
        return output, self.embedding_head(pieces), self.word_head(output.embedding)


def fit_probe(rows, statistics, config):
    """A [`probe`] for [`join`] on what the trunk reads: embeddings, standardised, and what is counted of chords, the
    mode and the tonality, as far as the model of a configuration has them.

    Args:
        rows (`list` of `dict`): training data, with `harmony` ([`read_harmony`]); those with people's quadrants teach.
        statistics (`dict`): `mean` and `std` of the embeddings that the student imitates.

    Returns:
        Weights (4, EMBEDDING + up to 13) and biases (4,), float64.
    """
    heard = [row for row in rows if row["quadrant"] >= 0]
    embeddings = torch.from_numpy(np.array([row["embedding"] for row in heard]))
    embeddings = ((embeddings - statistics["mean"].cpu()) / statistics["std"].cpu()).numpy().astype(np.float64)
    # What the trunk reads last, in this order.
    names = ["chord_statistics"] * config.use_chord_statistics + ["mode_ids"] * config.use_mode
    names += ["tonality"] * config.use_tonality
    counted = _counted([row["harmony"] for row in heard], names)
    blocks = [*networks(embeddings), counted] if counted.size else networks(embeddings)
    return tuple(torch.from_numpy(v).to(DEVICE) for v in probe(blocks, [row["quadrant"] for row in heard]))


@torch.no_grad()
def join(student, weight, bias):
    """The student with a probe built in, applied to the embedding that it imitates; its answer is the mean of both.

    Its own quadrants come from the clips of the training split, which it knows better than others. The probe learns them
    from what the teachers heard in those clips, and teachers know no clip better than another. It is linear in what the
    trunk reads, so it passes the heads' layers as positive and negative parts: 8 more units in each.

    Args:
        student ([`Student`]): trained; stays as it is.
        weight, bias: of the probe ([`fit_probe`]).
    """
    config = copy.deepcopy(student.model.config)
    weight, of_counted = weight[:, :EMBEDDING], weight[:, EMBEDDING:]
    imitation = student.embedding_head.weight.double(), student.embedding_head.bias.double()
    weight, bias = weight @ imitation[0], bias + weight @ imitation[1]

    config.trunk_size, config.head_size = config.trunk_size + 8, config.head_size + 8
    joined = Student(config, student.word_head.out_features).to(DEVICE)
    old = student.state_dict()
    for name, value in joined.state_dict().items():
        value.zero_()[tuple(map(slice, old[name].shape))] = old[name]
    first, _, _, last = joined.model.valence_arousal_head
    trunk, size = joined.model.mer.trunk, weight.shape[1]
    trunk.weight[-8:, :size], trunk.bias[-8:] = torch.cat((weight, -weight)), torch.cat((bias, -bias))
    trunk.weight[-8:, trunk.in_features - of_counted.shape[1] :] = torch.cat((of_counted, -of_counted))
    first.weight[-8:, -8:] = torch.eye(8, device=DEVICE)
    last.weight /= 2
    last.bias /= 2
    last.weight[:, -8:] = torch.cat((torch.eye(4), -torch.eye(4)), dim=1).to(DEVICE) * LOG_ODDS / 2
    return joined.train(student.training)


def _mean(losses):
    # Of the rows that somebody spoke about, of which a batch may have none.
    return losses.sum() / max(losses.numel(), 1)


def losses(student, batch, statistics, paper=False):
    """The parts of the training loss of one batch; with `paper`, teachers are heard by the published losses."""
    output, embedding, words = student(batch)
    taught, tagged, likely, rated = (
        ~batch[name].flatten(1).isnan().any(1) for name in ("embedding", "mood", "likely", "rated")
    )
    logits, va = output.logits[tagged], output.valence_arousal[tagged]
    soft = batch["mood"][tagged].clamp(1e-5, 1 - 1e-5)
    standard = (batch["embedding"][taught] - statistics["mean"]) / statistics["std"]
    raters = (output.valence_arousal[rated] - 5) * student.rated_gain + student.rated_bias
    # The teacher of quadrants decides the sides; the V/A teacher (weak on valence) only keeps the scale.
    weights = va.new_tensor([0.05, 0.2])
    parts = {
        "embedding": _mean((embedding[taught] - standard).square()),
        "tags": _mean(
            nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="none")
            - nn.functional.binary_cross_entropy(soft, soft, reduction="none")
        ) * soft.shape[1],
        "tag_logits": 0.3 * _mean(((logits - soft.logit()) / statistics["logit_std"]).square()),
        "va": _mean(weights * (va - batch["va"][tagged]).square()),
        "words": 2 * mood_loss(words, batch["words"]),
        "quadrants": _mean(
            nn.functional.cross_entropy(output.quadrant_logits[likely], batch["likely"][likely], reduction="none")
        ),
        "piano": quadrant_loss(output.quadrant_logits * student.piano_gain + student.piano_bias, batch["piano"]),
        "rated": 4 * _mean((raters - batch["rated"][rated]).square()),
    }  # fmt: skip
    if "directions" in statistics:
        # Of all that the embedding tells, quadrants depend on what the probe reads: four numbers, their mean apart.
        missed = (embedding[taught] - standard) @ statistics["directions"].T
        parts["directions"] = 2 * _mean((missed - missed.mean(2, keepdim=True)).square())
    if paper:
        parts["tags"] = mood_distillation_loss(logits, soft.logit(), "paper")
        parts["va"] = valence_arousal_distillation_loss(va, batch["va"][tagged], "paper")
        del parts["tag_logits"]
    return parts


@torch.no_grad()
def hear(student, dataset):
    """What the student says of whole segments, a `dict` of arrays: `tags` (n, 56) and `quadrants` (n, 4), logits,
    `valence_arousal` (n, 2), and `embedding` (n, EMBEDDING), standardised."""
    student.eval()
    heard = []
    for item in tqdm(dataset, desc="validation", unit="segment", leave=False):
        output, embedding, _ = student({name: value.unsqueeze(0).to(DEVICE) for name, value in item.items()})
        heard.append((output.logits[0], output.quadrant_logits[0], output.valence_arousal[0], embedding[0].mean(0)))
    student.train()
    names = ("tags", "quadrants", "valence_arousal", "embedding")
    return {name: torch.stack(values).cpu().numpy() for name, values in zip(names, zip(*heard))}


def validate(heard, dataset, statistics):
    """How good what [`hear`] returned of the dataset is: accuracy of the quadrants that valence and arousal lie in, and
    of each side; Spearman to the tag teacher; R2 of the teacher's embedding; Pearson with the raters of VGMIDI."""
    result = {}
    clips = [index for index, row in enumerate(dataset.rows) if row["body"] == "panda4q"]
    if clips:
        rows = [dataset.rows[index] for index in clips]
        mood, embedding = (np.stack([row[name] for row in rows]) for name in ("mood", "embedding"))
        correlation = [spearmanr(heard["tags"][clips][:, tag], mood[:, tag])[0] for tag in range(mood.shape[1])]
        standard = (embedding - statistics["mean"].cpu().numpy()) / statistics["std"].cpu().numpy()
        result = {
            "spearman": np.mean(correlation),
            "embedding_r2": r2_score(standard, heard["embedding"][clips], multioutput="variance_weighted"),
        }
    clips = [index for index in clips if dataset.rows[index]["quadrant"] >= 0]  # pretraining knows none
    if clips:
        positive = heard["valence_arousal"][clips] > 5
        quadrant = np.array([dataset.rows[index]["quadrant"] for index in clips])
        right = positive == np.stack((np.isin(quadrant, (0, 3)), np.isin(quadrant, (0, 1))), 1)
        signs = np.array([[2, 1], [3, 0]])[positive[:, 0].astype(int), positive[:, 1].astype(int)]
        result |= {
            "clips": len(clips),
            "quadrant": right.all(1).mean(),
            "f1": f1_score(quadrant, signs, average="macro", zero_division=0),
            "valence": right[:, 0].mean(),
            "arousal": right[:, 1].mean(),
        }
    pieces = {}
    for row, va in zip(dataset.rows, heard["valence_arousal"]):
        if row["body"] == "vgmidi":
            pieces.setdefault(row["track"], []).append((*va, *row["rated"]))
    if pieces:
        said = np.array([np.mean(segments, axis=0) for segments in pieces.values()])
        correlation = [pearsonr(said[:, axis], said[:, axis + 2])[0] for axis in range(2)]
        result |= {"pieces": len(said), "rated_valence": correlation[0], "rated_arousal": correlation[1]}
    return result


def train(rows, extractor, config, name, epochs, args, log, start=None, worse=True, averaged=True):
    """Train with a checkpoint after every epoch, less the parts that `args.without` names; returns the student.

    Args:
        start (`dict`, *optional*): weights to begin with; the others are drawn.
        worse (`bool`): whether a sixth of all crops is heard as a worse copy of the music has it ([`degrade`]).
        averaged (`bool`): whether the last fifth of the epochs goes on at a low, constant rate, and the student is the
            mean of the weights after each of its steps (stochastic weight averaging; Izmailov et al., UAI 2018).
    """
    torch.manual_seed(args.seed)
    work, without = args.work, args.without
    heard = [row for row in rows if row["split"] == "train"]
    dataset = Segments(heard, work / "features", extractor, True, args.seed, worse)
    held_out = [row for row in rows if row["split"] == "validation" and not row["version"]]
    held_out = Segments(held_out, work / "features", extractor, False)
    plain = [row for row in dataset.rows if not row["version"]]
    columns = {name: np.stack([row[name] for row in plain]) for name in ("embedding", "mood")}
    columns = {name: torch.from_numpy(values[np.isfinite(values).all(1)]).to(DEVICE) for name, values in columns.items()}
    statistics = {
        "mean": columns["embedding"].mean(0),
        "std": columns["embedding"].std(0) + 1e-3,
        "logit_std": columns["mood"].clamp(1e-5, 1 - 1e-5).logit().std(0),
    }
    # An epoch hears of each body of music so many of its 30 s.
    bodies = {}
    for index, row in enumerate(dataset.rows):
        bodies.setdefault(row["body"], []).append(index)
    shares = SHARES | ({"panda4q": 2} if "altered" in without else {})
    size = sum(math.ceil(shares[body] * len(places)) for body, places in bodies.items())
    steps = max(1, size // args.batch_size)
    student = Student(config, len(rows[0]["words"])).to(DEVICE)
    if start is not None:
        student.load_state_dict(start)
    # Muon for the matrices that do the most of the work: on so few steps it gets further than AdamW.
    matrices = [p for p in student.model.mer.encoder.parameters() if p.ndim == 2]
    rest = [p for p in student.parameters() if not any(p is matrix for matrix in matrices)]
    groups = [{"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.05}]
    groups += [{"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}]
    optimizers = [torch.optim.AdamW(groups, fused=True), torch.optim.Muon(matrices, weight_decay=0.05)]
    rates = (args.learning_rate, MUON_RATE)
    settled = epochs - int(averaged * AVERAGED * epochs)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, settled * steps, pct_start=0.15, cycle_momentum=False)
        for optimizer, rate in zip(optimizers, rates)
    ]
    average = AveragedModel(student, use_buffers=True)
    states = {"adamw": optimizers[0], "muon": optimizers[1], "schedule": schedules[0], "muon_schedule": schedules[1]}
    states["average"] = average
    checkpoint, first = work / f"{name}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=DEVICE, weights_only=True)
        student.load_state_dict(state["student"])
        for part, holder in states.items():
            holder.load_state_dict(state[part])
        first = state["epoch"]

    fitted = None
    if not {"probe", "embedding"} & set(without) and any(row["quadrant"] >= 0 for row in plain):
        fitted = fit_probe(plain, statistics, config)
        statistics["directions"] = fitted[0][:, :EMBEDDING].float()

    def finished():
        trained = average.module if average.n_averaged else student
        return join(trained, *fitted) if fitted else trained

    hours = Counter()
    for row in dataset.rows:
        hours[row["body"]] += row["mel"].shape[1] / 50 / 3600
    log(f"{name}: " + ", ".join(f"{hours[body]:.1f} hours of {body}" for body in sorted(hours)))
    log(f"{steps} steps an epoch; {len(held_out)} segments held out")
    for epoch in range(first, epochs):
        torch.manual_seed(args.seed * 1000 + epoch)
        dataset.epoch = epoch
        random = np.random.default_rng((args.seed, epoch))
        order = []
        for body, places in bodies.items():
            often = np.tile(places, math.ceil(shares[body]))
            order += random.permutation(often)[: math.ceil(shares[body] * len(places))].tolist()
        order = random.permutation(order)[: steps * args.batch_size].tolist()
        if epoch >= settled:
            for optimizer, rate in zip(optimizers, rates):
                for group in optimizer.param_groups:
                    group["lr"] = rate * AVERAGED_RATE
        sums = {}
        progress = tqdm(desc=f"{name} epoch {epoch + 1}/{epochs}", total=steps, unit="step", mininterval=5)
        for batch in torch.utils.data.DataLoader(dataset, args.batch_size, sampler=order):
            batch = {name: value.to(DEVICE) for name, value in batch.items()}
            parts = losses(student, batch, statistics, args.paper)
            parts = {part: value for part, value in parts.items() if part.replace("tag_logits", "tags") not in without}
            for optimizer in optimizers:
                optimizer.zero_grad()
            sum(parts.values()).backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            for optimizer, schedule in zip(optimizers, schedules):
                optimizer.step()
                if epoch < settled:
                    schedule.step()
            if epoch >= settled:
                average.update_parameters(student)
            progress.update()
            for part, value in parts.items():
                sums[part] = sums.get(part, 0.0) + value.detach() / steps
        progress.close()
        result = {}
        if (epoch + 1) % VALIDATE_EVERY == 0 or epoch + 1 == epochs:
            said = hear(finished(), held_out)
            result = validate(said, held_out, statistics)
            # Before the log, whose last epoch says that a run is complete.
            np.savez(work / f"{name}.npz", track=[row["track"] for row in held_out.rows], **said)
        log(json.dumps({"epoch": epoch + 1, **{k: round(float(v), 4) for k, v in (sums | result).items()}}))
        state = {"student": student.state_dict(), "epoch": epoch + 1}
        state |= {part: holder.state_dict() for part, holder in states.items()}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    return finished().eval().cpu()


def parse_arguments(argv=None):
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with panda4q and teachers")
    parser.add_argument("--game", type=Path, required=True, help="folder with the unpacked game music packages")
    parser.add_argument("--midi", type=Path, help="folder with vgmidi and emopia, rendered")
    parser.add_argument("--work", type=Path, required=True, help="folder for features and checkpoints")
    parser.add_argument("--out", type=Path, help="folder that gets config, weights and preprocessor")
    parser.add_argument("--name", default="mer-small", help="name of this run's checkpoint and log")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--pretraining-epochs", type=int, default=PRETRAINING_EPOCHS)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="at its highest")
    parser.add_argument("--seed", type=int, default=0, help="of training and folds; the pretraining is the same for all")
    parser.add_argument("--features-only", action="store_true", help="stop before training")
    parser.add_argument("--pretraining-only", action="store_true", help="stop after pretraining")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="hold out this fold of artists and series")
    parser.add_argument("--without", nargs="+", default=(), choices=[*PARTS, *OTHERS], help="what to leave out")
    parser.add_argument("--size", choices=SIZES, default="large", help="of the encoder")
    parser.add_argument("--paper", action="store_true", help="distil by the published losses")
    return parser.parse_args(argv)


def make_config(args):
    """Configuration of the model that the arguments ask for."""
    stem, hidden, inside, blocks = SIZES[args.size]
    encoder_config = MERMelConfig(
        stem_channels=stem, hidden_size=hidden, intermediate_size=inside, num_hidden_layers=blocks, hidden_dropout=0.0
    )
    inputs = {name: "chords" not in args.without for name in ("use_chords", "use_chord_statistics")}
    inputs |= {f"use_{name}": name not in args.without for name in ("mode", "tonality")}
    return MERConfig(encoder_config=encoder_config, head_dropout=0.2, quadrant_head=True, **inputs)


def main(argv=None):
    """Command line; see the module's docstring."""
    args = parse_arguments(argv)
    keep_memory()
    config = make_config(args)
    extractor = MERFeatureExtractor(sampling_rate=config.encoder_config.sampling_rate)
    rows = read_data(args.data, args.game, args.midi, args.work / "tagger.npz")
    if args.fold is not None:
        rows = assign_fold(rows, args.fold, args.seed)
    encoder = MERForAudioClassification(config).mer.encoder
    extract(rows, args.work / "features", extractor, encoder)
    if args.features_only:
        return
    rows = [row for row in rows if all(file.exists() for file in _files(args.work / "features", row["track"]))]

    def log(line):
        tqdm.write(line)
        with open(args.work / f"{args.name}.log", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    rows = [row for row in rows if row["body"].removesuffix("_music") not in args.without]
    start = pretrain(rows, extractor, config, args, log) if not {"game", "pretraining"} & set(args.without) else None
    if args.pretraining_only:
        return
    rows = teach_quadrants(rows, args.work / "features", extractor, "probe" not in args.without)
    worse = "worse" not in args.without
    student = train(rows, extractor, config, args.name, args.epochs, args, log, start, worse)
    if args.out:
        export(student.model, extractor, args.out)


if __name__ == "__main__":
    main()

"""Miniature corpora in the layouts of the official archives: values made up here, ids from the committed lists."""

import numpy as np
import soundfile
from mer.datasets_loaders.leak_free import read_split_list


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def tone(path, rate=44100, channels=2, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate, format="MP3")


def some_ids(corpus, low=1, high=10_000):
    """Two ids of each split of both lists, so that no split is empty; in numerical order."""
    ids = set()
    for splits in ("leak_free", "published"):
        split_of = read_split_list(splits, corpus)
        for split in set(split_of.values()):
            ids.update([i for i in split_of if split_of[i] == split and low <= int(i) <= high][:2])
    return sorted(ids, key=int)


def values_of(track_id, axis):
    """Made-up (mean on 1-9, deviation) of a song: no two of the four numbers alike."""
    shift = 0 if axis == "valence" else 3.25
    return 1.5 + int(track_id) % 4 + int(track_id) % 89 / 100 + shift, 0.5 + shift / 10


def curve_of(track_id, axis):
    """Made-up curve on -1..1; ids differ in length."""
    return [round(values_of(track_id, axis)[0] / 10 - 0.4 + 0.01 * step, 3) for step in range(3 + int(track_id) % 3)]


def write_curves(folder, ids, names, space=""):
    header = ["song_id"] + [f"{space}sample_{15000 + 500 * step}ms" for step in range(5)]
    for axis, name in names.items():
        rows = [",".join([i] + [f"{space}{value}" for value in curve_of(i, axis)]) for i in ids]
        write(folder / name, ",".join(header), *rows)


def make_deam(root, underscores=False):
    """Ids of both files; leading spaces, interleaved columns, ragged metadata with tabs; columns exchanged to 1000."""
    ids = some_ids("deam", high=1000) + ["1001", "1002", "2001", "2002", "2003"]

    def folder(*names):
        return root.joinpath(*(name.replace(" ", "_") if underscores else name for name in names))

    averaged = folder("annotations", "annotations averaged per song")
    for name, members in (("1_2000", ids[:-3]), ("2000_2058", ids[-3:])):
        columns = ["valence_mean", "valence_std", "arousal_mean", "arousal_std"]
        if name == "2000_2058":
            columns[2:2] = ["valence_max_mean", "valence_max_std", "valence_min_mean", "valence_min_std"]
        rows = []
        for i in members:
            values = [*values_of(i, "valence"), *values_of(i, "arousal")]
            if int(i) <= 1000:
                values = values[2:] + values[:2]
            cells = dict(zip(("valence_mean", "valence_std", "arousal_mean", "arousal_std"), values))
            rows.append(", ".join([i] + [str(cells.get(column, 8.5)) for column in columns]))
        path = averaged / "song_level" / f"static_annotations_averaged_songs_{name}.csv"
        write(path, ", ".join(["song_id", *columns]), *rows)
    dynamic = averaged / folder("dynamic (per second annotations)").name
    write_curves(dynamic, ids, {axis: f"{axis}.csv" for axis in ("valence", "arousal")}, space=" ")
    write(
        root / "metadata" / "metadata_2013.csv",
        '"song_id","file_name","Artist","Song title"',
        f'{ids[0]},"\t{ids[0]}.mp3","Made Up\t","\tA Title\t"',
    )
    write(
        root / "metadata" / "metadata_2014.csv",
        "Id,Artist,Album,Track,Genre,labels",
        '1001,"A, B and C",Album,"Song, the",Rock,\tone,two,three,,',
        "1002,\tSolo",
    )
    write(root / "metadata" / "metadata_2015.csv", "id,title ,artist ,album", "2001,Title,Full Song,n/a,x,y,,,")
    for i in ids:
        rate, channels = {"1001": (48000, 2), "1002": (16000, 1), "2001": (22050, 1)}.get(i, (44100, 2))
        tone(root / "MEMD_audio" / f"{i}.mp3", rate, channels)
    return ids


def make_emomusic(root, flat=False):
    """Arousal before valence, cells with tabs, more clips than annotations."""
    ids = some_ids("emomusic")
    annotations = root if flat else root / "annotations"
    rows = [",".join(map(str, [i, *values_of(i, "arousal"), *values_of(i, "valence")])) for i in ids]
    write(annotations / "static_annotations.csv", "song_id,mean_arousal,std_arousal,mean_valence,std_valence", *rows)
    write(
        annotations / "songs_info.csv",
        '"song_id","file_name","Artist","Song title","start","end","Genre","Mediaeval 2013 set"',
        *(f'{i},"\t{i}.mp3","Artist {i}\t","\tTitle\t","\t0.48\t","\t1.33\t","\tBlues\t","development"' for i in ids),
    )
    write_curves(annotations, ids, {axis: f"{axis}_cont_average.csv" for axis in ("valence", "arousal")})
    for i in [*ids, "1"]:
        tone(root / ("clips_45sec" if flat else "clips_45seconds") / f"{i}.mp3")
    return ids


def make_pmemo(root):
    """Arousal before valence, 0 to 1; a clip without annotation."""
    ids = some_ids("pmemo")
    for name, kind, index in (("static_annotations", "mean", 0), ("static_annotations_std", "std", 1)):
        rows = []
        for i in ids:
            arousal, valence = (values_of(i, axis)[index] for axis in ("arousal", "valence"))
            scaled = [(x - 1) / 8 if kind == "mean" else x / 8 for x in (arousal, valence)]
            rows.append(",".join([i, *map(str, scaled)]))
        write(root / "annotations" / f"{name}.csv", f"musicId,Arousal({kind}),Valence({kind})", *rows)
    rows = []
    for i in ids:
        for step, (arousal, valence) in enumerate(zip(curve_of(i, "arousal"), curve_of(i, "valence"))):
            rows.append(f"{i},{15 + step / 2},{(arousal + 1) / 2},{(valence + 1) / 2}")
    write(root / "annotations" / "dynamic_annotations.csv", "musicId,frameTime,Arousal(mean),Valence(mean)", *rows)
    write(
        root / "metadata.csv",
        "musicId,fileName,title,artist,album,duration,chorus_start_time,chorus_end_time",
        *(f'{i},{i}.mp3,Title,"Artist, {i}",Album,{20 + int(i) / 100},02:35,03:05' for i in ids),
    )
    for i in [*ids, "9999"]:
        tone(root / "chorus" / f"{i}.mp3")
    return ids


JAMENDO = {  # 17146 and 24836 are one recording
    "train": [
        ("track_0000948", "48/948.mp3", ["background"]),
        ("track_0017146", "46/17146.mp3", ["dark"]),
        ("track_0000950", "50/950.mp3", ["action", "calm", "uplifting"]),
    ],
    "validation": [("track_0003346", "46/3346.mp3", ["calm", "melodic"]), ("track_0003347", "47/3347.mp3", ["calm"])],
    "test": [("track_0024836", "36/24836.mp3", ["dark"]), ("track_0004882", "82/4882.mp3", ["meditative", "sad"])],
}


def make_mtg_jamendo(root):
    """Any number of tags; one of the files from the low-bitrate archive; split-1 with the roles of split-0 turned."""
    for number in (0, 1):
        for split, tracks in JAMENDO.items():
            rows = [
                "\t".join(
                    [i, "artist_000001", "album_000001", path, "212.7", *(f"mood/theme---{tag}" for tag in tags)]
                )
                for i, path, tags in tracks
            ]
            name = {"train": "test", "test": "train"}.get(split, split) if number else split
            path = root / "data" / "splits" / f"split-{number}" / f"autotagging_moodtheme-{name}.tsv"
            write(path, "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS", *rows)
    paths = [path for tracks in JAMENDO.values() for _, path, _ in tracks]
    for path in paths[1:]:
        tone(root / "audio" / path)
    tone(root / "audio" / paths[0].replace(".mp3", ".low.mp3"), 22050, 1)
    return [i for tracks in JAMENDO.values() for i, _, _ in tracks]


def make_folder(root, splits=True):
    rows, ids = [], []
    for number, split in enumerate(("train", "train", "validation", "validation", "test", "test")):
        ids.append(f"sub folder/{number}.mp3")
        tone(root / ids[-1])
        rows.append(
            f"{ids[-1]},0.5,{number / 10},calm; sad,Q{number % 4 + 1},artist {number},{split if splits else ''}"
        )
    write(root / "annotations.csv", "path,valence,arousal,tags,quadrant,artist,split", *rows)
    return ids


MAKERS = {
    "deam": make_deam, "emomusic": make_emomusic, "pmemo": make_pmemo, "mtg_jamendo": make_mtg_jamendo,
    "folder": make_folder,
}  # fmt: skip

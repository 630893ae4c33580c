"""PMEmo, popular music with emotional annotations: choruses with valence and arousal, per song and per half second.

What:     794 choruses of 11 to 88 s of popular songs, 767 of them annotated (2019 release). No official splits.
Labels:   valence and arousal, 0 to 1 in the files, mapped here to 1-9 as 1 + 8x, with standard deviations over raters;
          curves from 15 s on, two values a second.
Audio:    MP3.
Licence:  annotations for research; the songs are commercial music: never redistribute them.
Citation: Zhang, Zhang, Yang, Luo, Sun: The PMEmo dataset for music emotion recognition, ICMR 2018.
Get it:   https://github.com/HuiZhangDB/PMEmo

Expected folder: see `LAYOUT`.
"""

from collections import defaultdict
from pathlib import Path

from .corpus import CorpusBuilder, CorpusError, curve_columns, locate, number, read_ids, read_table, rescale

CITATION = """@inproceedings{zhang2018pmemo,
  author = {Zhang, Kejun and Zhang, Hui and Li, Simeng and Yang, Changyuan and Sun, Lingyun},
  title = {The PMEmo Dataset for Music Emotion Recognition},
  booktitle = {Proceedings of the 2018 ACM International Conference on Multimedia Retrieval},
  year = {2018}
}"""
LICENSE = "Annotations for research; the songs are commercial music, never to be redistributed"
HOMEPAGE = "https://github.com/HuiZhangDB/PMEmo"
REMOTES = {"PMEmo2019.zip": HOMEPAGE}
LAYOUT = """  chorus/1.mp3, ...
  annotations/static_annotations.csv, static_annotations_std.csv, dynamic_annotations.csv
  metadata.csv
  (or all of it in a folder PMEmo2019/)"""
FILE_SCALE = (0.0, 1.0)


def corpus_root(data_dir):
    """`data_dir`, or the folder `PMEmo2019` in it that the archive unpacks to."""
    return locate(data_dir, "PMEmo2019") or Path(data_dir)


def read_metadata(data_dir):
    """`{id: (artist, title, seconds of the chorus or None)}` from `metadata.csv`."""
    path = PMEmo.require(corpus_root(data_dir), "metadata.csv")
    table = read_ids(path, "musicId", ("title", "artist", "duration"))
    return {
        track_id: (
            fields["artist"],
            fields["title"],
            number(where, fields, "duration") if fields["duration"] else None,
        )
        for track_id, (where, fields) in table.items()
    }


def read_dynamic(path):
    """Curves of `dynamic_annotations.csv`: ({id: {seconds: valence}}, {id: {seconds: arousal}}), 1 to 9."""
    curves = defaultdict(dict), defaultdict(dict)
    columns = ("Valence(mean)", "Arousal(mean)")
    for where, fields in read_table(path, ("musicId", "frameTime", *columns)):
        time = number(where, fields, "frameTime", (0, float("inf")))
        for curve, column in zip(curves, columns):
            song = curve[fields["musicId"]]
            if time in song:
                raise CorpusError(f"{where}: the time {time:g} s of id {fields['musicId']} has occurred before.")
            song[time] = rescale(number(where, fields, column, FILE_SCALE), FILE_SCALE)
    return curves


class PMEmo(CorpusBuilder):
    """Builder of PMEmo; see [`CorpusBuilder`]."""

    title, citation, license, homepage, layout = "PMEmo", CITATION, LICENSE, HOMEPAGE, LAYOUT

    @classmethod
    def audio_folders(cls, data_dir):
        return [corpus_root(data_dir) / "chorus"]

    @classmethod
    def tracks(cls, data_dir, config):
        root = corpus_root(data_dir)
        (folder,) = cls.audio_folders(data_dir)
        metadata = read_metadata(data_dir)
        means_path = cls.require(root, "annotations", "static_annotations.csv")
        means = read_ids(means_path, "musicId", ("Valence(mean)", "Arousal(mean)"))
        deviations_path = cls.require(root, "annotations", "static_annotations_std.csv")
        deviations = read_ids(deviations_path, "musicId", ("Valence(std)", "Arousal(std)"))
        curves = {}, {}
        if config.dynamic:
            curves = read_dynamic(cls.require(root, "annotations", "dynamic_annotations.csv"))
        rows = []
        for track_id, (where, fields) in means.items():
            artist, _, duration = metadata.get(track_id, ("", "", None))
            row = cls.track(track_id, folder / f"{track_id}.mp3", artist=artist or None, duration=duration)
            for axis in ("valence", "arousal"):
                row[axis] = rescale(number(where, fields, f"{axis.title()}(mean)", FILE_SCALE), FILE_SCALE)
                if track_id in deviations:
                    std = number(*deviations[track_id], f"{axis.title()}(std)", FILE_SCALE)
                    row[f"{axis}_std"] = 8 * std  # a width, not a position: the scale's offset does not count
            rows.append(row | curve_columns(track_id, *curves))
        return rows

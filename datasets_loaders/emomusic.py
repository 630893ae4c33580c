"""EmoMusic, 1000 songs for emotional analysis of music: clips with valence and arousal, per song and per second.

What:     744 clips of 45 s from the Free Music Archive (1,000 less duplicates and broken ones), ids 2 to 1000. All
          of them are in DEAM too, under the same ids. The official evaluation set of MediaEval 2013 has 125 songs.
Labels:   valence and arousal, 1 to 9, with standard deviations over raters; curves from 15 s on, two values a second.
          Its columns are right where DEAM's are exchanged.
Audio:    MP3, 44.1 kHz. The archive holds 1,000 clips; only the annotated ones are used.
Licence:  the songs are under Creative Commons licences of mixed terms: link to them, do not mirror them; the
          annotations are for research.
Citation: Soleymani, Caro, Schmidt, Sha, Yang: 1000 songs for emotional analysis of music, CrowdMM 2013.
Get it:   https://cvml.unige.ch/databases/emoMusic/

Expected folder: see `LAYOUT`.
"""

from pathlib import Path

from .corpus import SCALE, CorpusBuilder, curve_columns, first_existing, number, read_curves, read_ids

CITATION = """@inproceedings{soleymani20131000,
  author = {Soleymani, Mohammad and Caro, Micheal N. and Schmidt, Erik M. and Sha, Cheng-Ya and Yang, Yi-Hsuan},
  title = {1000 Songs for Emotional Analysis of Music},
  booktitle = {Proceedings of the 2nd ACM International Workshop on Crowdsourcing for Multimedia},
  year = {2013}
}"""
LICENSE = "Annotations for research; the songs are under Creative Commons licences of mixed terms, not to be mirrored"
HOMEPAGE = "https://cvml.unige.ch/databases/emoMusic/"
REMOTES = {"audio": HOMEPAGE + "clips_45sec.tar.gz", "annotations": HOMEPAGE + "annotations.tar.gz"}
LAYOUT = """  clips_45seconds/2.mp3, ... (also clips_45sec/)
  annotations/static_annotations.csv, songs_info.csv, {valence,arousal}_cont_average.csv (also without annotations/)"""
CURVE_SCALE = (-1.0, 1.0)


def annotation_file(data_dir, name):
    """Path of an annotation file, which lies flat or under `annotations/`."""
    flat = Path(data_dir, name)
    return flat if flat.exists() else EmoMusic.require(data_dir, "annotations", name)


def read_metadata(data_dir):
    """`{id: (artist, title, part)}` from `songs_info.csv`; part is "development" or "evaluation" (MediaEval 2013)."""
    columns = ("Artist", "Song title", "Mediaeval 2013 set")
    table = read_ids(annotation_file(data_dir, "songs_info.csv"), "song_id", columns)
    return {track_id: tuple(fields[column] for column in columns) for track_id, (_, fields) in table.items()}


class EmoMusic(CorpusBuilder):
    """Builder of EmoMusic; see [`CorpusBuilder`]."""

    title, citation, license, homepage, layout = "EmoMusic", CITATION, LICENSE, HOMEPAGE, LAYOUT

    @classmethod
    def audio_folders(cls, data_dir):
        return [first_existing(Path(data_dir, name) for name in ("clips_45seconds", "clips_45sec"))]

    @classmethod
    def tracks(cls, data_dir, config):
        (folder,) = cls.audio_folders(data_dir)
        metadata = read_metadata(data_dir)
        curves = {}, {}
        if config.dynamic:
            names = ("valence_cont_average.csv", "arousal_cont_average.csv")
            curves = [read_curves(annotation_file(data_dir, name), CURVE_SCALE) for name in names]
        columns = {
            "valence": ("mean_valence", SCALE),
            "arousal": ("mean_arousal", SCALE),
            "valence_std": ("std_valence", (0, 8)),
            "arousal_std": ("std_arousal", (0, 8)),
        }
        path = annotation_file(data_dir, "static_annotations.csv")
        rows = []
        for track_id, (where, fields) in read_ids(path, "song_id", [name for name, _ in columns.values()]).items():
            values = {name: number(where, fields, *column) for name, column in columns.items()}
            artist = metadata.get(track_id, ("", ""))[0] or None
            row = cls.track(track_id, folder / f"{track_id}.mp3", artist=artist, **values)
            rows.append(row | curve_columns(track_id, *curves))
        return rows

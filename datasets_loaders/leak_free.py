"""Splits without leaks: which artist and which recording is in which split, over all corpora at once.

The lists under `splits/` are made by `scripts/make_splits.py` from the corpora's annotation files:

- `published.csv` (corpus, track_id, split): the lists that Kang & Herremans (2025) published for DEAM, PMEmo and
  EmoMusic. EmoMusic's test set is the official evaluation set of MediaEval 2013.
- `leak_free.csv` (corpus, track_id, split, group): one assignment over the three, by the artists in their metadata.
  Songs of one group are tied to each other, directly or in a chain, by an artist (main, featured or in a remix); a
  group lies in one split as a whole. Copies of a song within these corpora have the same artist, hence the same group.
  DEAM and EmoMusic share their ids up to 1000. A group with a song of the official evaluation set is in test. Its
  other songs are test songs in DEAM, and "excluded", in no split, in EmoMusic: so EmoMusic's test set stays exactly
  the official one, and results on it can be compared with the literature.
- `mtg_jamendo_duplicates.csv` (group, track_id): tracks of MTG-Jamendo mood/theme with bit-identical audio.

Not covered: MTG-Jamendo's annotations name artists by number only, so an artist of DEAM who is in it too goes unseen.
"""

import csv
import functools
import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from importlib import resources

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SPLITS = ("train", "validation", "test")

# Also "-": EmoMusic writes some cells as "Artist-Title". Tying too much is safe, tying too little is a leak.
BETWEEN_ARTISTS = re.compile(
    r"\s+(?:feat(?:uring)?|ft|with|and|vs|x|remixes|w(?=/))\b\.?|[&+,/;()\[\]-]", re.IGNORECASE
)
FEATURED_IN_TITLE = re.compile(r"\b(?:feat|ft|featuring)\b\.?([^()\[\]]+)", re.IGNORECASE)


@functools.cache
def read_list(name):
    """Rows of the committed list `splits/<name>.csv`, as dicts of strings."""
    with resources.files(__package__).joinpath("splits", f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def read_split_list(splits, corpus):
    """`{track_id: split}` of a corpus; `splits` is "leak_free" or "published"."""
    return {row["track_id"]: row["split"] for row in read_list(splits) if row["corpus"] == corpus}


def plain_name(name):
    """`name` without case, accents, punctuation, spaces and a leading "The", for comparing."""
    name = re.sub(r"^\s*the\s+", "", unicodedata.normalize("NFKD", name).casefold())
    return "".join(character for character in name if character.isalnum())


def artist_keys(artist, title=""):
    """Plain names of all artists that a song's credits name: the whole credit, its parts, and those in the title.

    Args:
        artist (`str` or `None`): such as "Black Twig Pickers and Steve Gunn".
        title (`str`): such as "X Bitch (feat. Future)"; only what follows "feat." counts.

    Returns:
        `set[str]`, empty if the artist is not known.
    """
    credits = [artist or ""] + FEATURED_IN_TITLE.findall(title)
    names = {plain_name(name) for credit in credits for name in [credit, *BETWEEN_ARTISTS.split(credit)]}
    return names - {""}


def tied_groups(keys_of):
    """Group songs that share a key, directly or in a chain.

    Args:
        keys_of (`dict[song, set[str]]`): each song's keys; a song without any is a group of its own.

    Returns:
        `list[list[song]]`, groups in the order of their first songs, songs in the order given.
    """
    songs, index = list(keys_of), {}
    pairs = [(row, index.setdefault(key, len(index))) for row, song in enumerate(songs) for key in keys_of[song]]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    nodes = len(songs) + len(index)
    graph = coo_array((np.ones(len(rows)), (rows, columns + len(songs))), shape=(nodes, nodes))
    groups = defaultdict(list)
    for song, label in zip(songs, connected_components(graph, directed=False)[1]):
        groups[label].append(song)
    return list(groups.values())


def assign_groups(groups, stratum_of, shares, fixed=()):
    """Put whole groups into splits so that each stratum comes close to its shares; the same input, the same result.

    Large groups go first, equally large ones in the order of a hash of their first song; each goes where its strata
    lack most.

    Args:
        groups (`list[list[song]]`): songs are strings.
        stratum_of (`Callable[[song], str]`): the body of songs that a song counts for.
        shares (`dict[str, dict[str, float]]`): for each stratum the share of each split.
        fixed (`Container[song]`): songs whose groups are test, whatever the shares; they do not count for them.

    Returns:
        `dict[song, split]`.
    """
    tested = [group for group in groups if any(song in fixed for song in group)]
    free = [group for group in groups if not any(song in fixed for song in group)]
    split_of = {song: "test" for group in tested for song in group}
    total = Counter(stratum_of(song) for group in free for song in group)
    filled = defaultdict(Counter)
    for group in sorted(free, key=lambda group: (-len(group), hashlib.sha256(group[0].encode()).digest())):
        strata = Counter(stratum_of(song) for song in group)
        lack = {
            split: sum(
                n * (shares[stratum][split] - filled[stratum][split] / total[stratum]) for stratum, n in strata.items()
            )
            for split in SPLITS
        }
        split = max(SPLITS, key=lack.get)
        for song in group:
            split_of[song] = split
            filled[stratum_of(song)][split] += 1
    return split_of

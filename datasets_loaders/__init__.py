"""The corpora that MER trains on, read from your own copies: one schema, splits without leaks.

```python
from mer.datasets_loaders import load_mer_dataset

train = load_mer_dataset("deam", "/data/DEAM", split="train")
```
"""

from .corpus import FEATURES, CorpusBuilder, CorpusConfig, CorpusError, Validation, rescale, warn_once
from .deam import Deam, check_valence_arousal
from .emomusic import EmoMusic
from .folder import Folder
from .leak_free import SPLITS
from .mtg_jamendo import MTGJamendo, tag_positive_rates
from .pmemo import PMEmo

CORPORA = {builder.corpus_name(): builder for builder in (MTGJamendo, Deam, PMEmo, EmoMusic, Folder)}


def load_mer_dataset(
    name,
    data_dir,
    split=None,
    splits="leak_free",
    valence_arousal="repaired",
    dynamic=False,
    cache_dir=None,
    num_proc=None,
    **options,
):
    """Load a corpus from your own copy. The columns are those of `corpus.py`, the same for every corpus.

    Args:
        name (`str`): a key of `CORPORA`: "mtg_jamendo", "deam", "pmemo", "emomusic" or "folder".
        data_dir (`str` or `Path`): the corpus's folder, in the layout of its archive.
        split (`str`, *optional*): "train", "validation", "test", or a slice as in `datasets`; all three without.
        splits (`str`, defaults to `"leak_free"`): one assignment over all corpora in which no song and no known artist
            is in two splits; or `"published"`, the authors' own lists, for comparison with published numbers.
        valence_arousal (`str`, defaults to `"repaired"`): with DEAM's exchanged columns exchanged back, or
            `"as_released"`. The other corpora have nothing to repair.
        dynamic (`bool`, defaults to `False`): add the per-second curves.
        cache_dir (`str`, *optional*), num_proc (`int`, *optional*): as in `datasets.load_dataset`.
        options: of one corpus: `split_number` of "mtg_jamendo", `scale` and `csv` of "folder".

    Returns:
        `datasets.Dataset`, or a `DatasetDict` of the splits that have tracks if `split` is `None`.

    Raises:
        ValueError: the name or an option is unknown, or a file says something that cannot be right.
        FileNotFoundError: a file is not there; the message shows what was expected and where to get it.
    """
    if name not in CORPORA:
        raise ValueError(f"there is no corpus {name!r}; there are {', '.join(CORPORA)}.")
    if splits == "published" and name in ("deam", "emomusic", "pmemo"):
        warn_once(
            "The published splits leak: 82 of EmoMusic's 125 test songs are in DEAM's training split and 16 in its "
            "validation split; about half of the test songs of EmoMusic and PMEmo share an artist with their own "
            "training split. Do not combine corpora with them; the default, "
            'splits="leak_free", is made for that.'
        )
    builder = CORPORA[name](
        data_dir, cache_dir=cache_dir, splits=splits, valence_arousal=valence_arousal, dynamic=dynamic, **options
    )
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


__all__ = [
    "CORPORA",
    "FEATURES",
    "SPLITS",
    "CorpusBuilder",
    "CorpusConfig",
    "CorpusError",
    "Deam",
    "EmoMusic",
    "Folder",
    "MTGJamendo",
    "PMEmo",
    "Validation",
    "check_valence_arousal",
    "load_mer_dataset",
    "rescale",
    "tag_positive_rates",
]

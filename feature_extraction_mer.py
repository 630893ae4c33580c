"""From music to the inputs of a MER model: decoding, segments at the encoder's rate, chords and mode."""

import http.client
import io
import numbers
import os
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
import soxr
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from .configuration_mer import MODES
from .harmony_mer import (
    NO_TONALITY,
    RECOGNIZERS,
    SILENCE,
    Harmony,
    Key,
    check_recognizer,
    encode_chords,
    get_recognizer,
    summarize_chords,
)

logger = logging.get_logger(__name__)

MIN_SECONDS = 0.1
LOUDEST = 1e12  # of full scale; integers that were made floats are far below, what overflows far above
MIN_RATE, MAX_RATE = 4_000, 768_000
MAX_CHANNELS = 8
RESAMPLERS = ("soxr", "torchaudio")
FORMATS = "wav, flac, ogg, opus, mp3, aiff"
_BLOCK = 1 << 20  # frames decoded at once
_LONGEST = 24 * 3600  # seconds; a header that states more, as a FLAC's from a pipe does, does not know
_ENCODED = (bytes, bytearray, memoryview)
# Sizes that a WAV written to a pipe states: ffmpeg's, and those around 2 GiB of SoX (whole blocks) and arecord.
_STREAMED = {0, 0xFFFFFFFF, *range(0x7FFFEF00, 0x80000001)}


class MERAudioError(ValueError):
    """Audio that MER cannot use; the sentence names the file and the cause."""


def load_audio(source, sampling_rate=None):
    """Decode anything that holds music into one mono waveform at its own rate.

    Args:
        source: path, `http(s)` address, encoded `bytes`, or samples: an array or tensor `(n,)`, stereo `(channels, n)`
            or `(n, channels)` (the longer side is time), float in -1..1 or integer PCM; or a dict with `array` or `raw`
            and `sampling_rate`, or with `bytes` or `path` (a column of `datasets`).
        sampling_rate (`int`, *optional*): Hz of `source`, where it is samples without a dict.

    Returns:
        `tuple[np.ndarray, int]`: float32 waveform `(n,)`, the mean of the channels, and its rate in Hz.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be opened or fetched.
        MERAudioError: it is not music that MER can use: wrong format, truncated, empty, shorter than 0.1 s, silent, NaN,
            more than 8 channels, a rate below 4 kHz.
    """
    name = "waveform"
    if isinstance(source, dict):
        values = source
        source = next((values[key] for key in ("raw", "array", "bytes", "path") if values.get(key) is not None), None)
        is_file = isinstance(source, (str, os.PathLike, *_ENCODED))
        if source is None or not (is_file or values.get("sampling_rate")):
            raise MERAudioError("A dict needs 'array' (or 'raw') and 'sampling_rate', or 'path', or 'bytes'.")
        sampling_rate, name = values.get("sampling_rate"), str(values.get("path") or name)
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        if name.startswith(("http://", "https://")):
            waveform, sampling_rate = _decode(io.BytesIO(_fetch(name)), name)
        elif os.path.isdir(name):
            raise IsADirectoryError(f"{name}: a folder, not an audio file.")
        elif not os.path.exists(name):
            raise FileNotFoundError(f"{name}: no such file.")
        else:
            with open(name, "rb") as file:
                waveform, sampling_rate = _decode(file, name)
    elif isinstance(source, _ENCODED):
        name = "audio bytes" if name == "waveform" else name
        waveform, sampling_rate = _decode(io.BytesIO(source), name)
    else:
        if sampling_rate is None:
            raise MERAudioError(f"{name}: samples need their sampling_rate.")
        _check_layout(name, 1, sampling_rate)
        waveform = _to_mono(source, name, sampling_rate)
    return check_waveform(waveform, sampling_rate, name), int(sampling_rate)


def check_waveform(waveform, sampling_rate, name="waveform"):
    """Return a mono waveform `(n,)` as float32 if a model can use it; else raise `MERAudioError` with the cause."""
    _check_layout(name, 1, sampling_rate)
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    if len(waveform) == 0:
        raise MERAudioError(f"{name}: holds no samples.")
    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise MERAudioError(
            f"{name}: too short, {len(waveform)} sample(s) at {sampling_rate} Hz; at least {MIN_SECONDS} s are needed."
        )
    low, high = float(waveform.min()), float(waveform.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise MERAudioError(f"{name}: holds NaN or infinite samples.")
    if max(-low, high) > LOUDEST:
        raise MERAudioError(f"{name}: samples of up to {max(-low, high):.2g}, where full scale is 1; not audio.")
    if max(-low, high) < SILENCE:
        raise MERAudioError(f"{name}: silent (nothing above {SILENCE:g} of full scale).")
    return waveform


def _check_layout(name, channels, sampling_rate):
    if channels > MAX_CHANNELS:
        raise MERAudioError(f"{name}: {channels} channels; at most {MAX_CHANNELS} are mixed down.")
    if not isinstance(sampling_rate, numbers.Real) or not MIN_RATE <= sampling_rate <= MAX_RATE:
        raise MERAudioError(
            f"{name}: a sampling rate of {sampling_rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are supported."
        )


def _to_mono(samples, name, sampling_rate):
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu()
        samples = samples.float() if samples.is_floating_point() else samples  # NumPy has no bfloat16
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise MERAudioError(f"{name}: samples must be numbers, in rows of one length.") from error
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype)
        half_range = (float(limits.max) - float(limits.min) + 1) / 2
        samples = (samples.astype(np.float32) - (half_range if limits.min == 0 else 0)) / np.float32(half_range)
    if samples.dtype.kind != "f":
        raise MERAudioError(f"{name}: samples must be numbers, not {samples.dtype}.")
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2 or 0 in samples.shape:
        raise MERAudioError(f"{name}: samples must have the shape (n,) or (channels, n), not {samples.shape}.")
    axis = int(np.argmin(samples.shape))
    _check_layout(name, samples.shape[axis], sampling_rate)
    return samples.mean(axis=axis, dtype=np.float32)


def _decode(file, name):
    # Block by block, so that a long stereo file never lies in memory as a whole.
    if not file.read(1):
        raise MERAudioError(f"{name}: empty, it holds no bytes.")
    file.seek(0)
    truncated = MERAudioError(f"{name}: truncated or damaged; the file ends before its music does.")
    try:
        with soundfile.SoundFile(file) as audio:
            _check_layout(name, audio.channels, audio.samplerate)
            known = audio.frames < _LONGEST * audio.samplerate
            if not known:
                audio.seekable = lambda: False  # soundfile seeks behind every block, which needs a length
            waveform = np.empty(max(audio.frames, 0) if known else _BLOCK, dtype=np.float32)
            filled = 0
            while True:
                block = audio.read(_BLOCK, dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                if filled + len(block) > len(waveform):  # the header promised less than there is
                    waveform = np.resize(waveform, filled + max(len(block), filled // 2))
                np.mean(block, axis=1, out=waveform[filled : filled + len(block)])
                filled += len(block)
            if audio.format == "MP3" and not _mp3_states_length(file):
                # The length is a guess from the first frame, and reading ends there.
                if file.tell() < 0.6 * file.seek(0, os.SEEK_END):
                    raise MERAudioError(
                        f"{name}: an MP3 of variable bit rate without a header that states its length; write it anew, "
                        "for instance with `ffmpeg -i IN -c copy OUT.mp3`."
                    )
            # Encoders' delay makes an MP3 a little shorter than stated; a cut one lacks far more.
            elif known and filled < 0.98 * audio.frames - audio.samplerate / 10:
                raise truncated
            stated = re.search(r"^\s*(?:data|SSND)\s*: (\d+) \(should be \d+\)", audio.extra_info, re.MULTILINE)
            if stated and int(stated[1]) not in _STREAMED:
                raise truncated
            if audio.format == "OGG":
                if _cut_within_page(file):
                    raise truncated
                if _is_chained(file):
                    raise MERAudioError(
                        f"{name}: several Ogg streams one behind the other, of which only the first can be read; join "
                        "them, for instance with `ffmpeg -i IN OUT.ogg`."
                    )
            return waveform[:filled], audio.samplerate
    except soundfile.LibsndfileError as error:
        cause = error.error_string.rstrip(".")
        if "sync" in cause or "malformed" in cause:
            raise truncated from error
        raise MERAudioError(f"{name}: not a readable audio file ({cause}); MER reads {FORMATS}.") from error


def _mp3_states_length(file):
    # A Xing, Info or VBRI header lies in the first frame, behind the ID3v2 tag, whose size has 7 bits a byte.
    place = file.tell()
    file.seek(0)
    tag = file.read(10)
    size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0))) + 10
    file.seek(size if tag[:3] == b"ID3" else 0)
    frame = file.read(2048)
    file.seek(place)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def _cut_within_page(file):
    # An Ogg page states its own length (RFC 3533, section 6); a cut file ends within one.
    page = _last_page(file)
    return len(page) < 27 or len(page) < 27 + page[26] or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])


def _is_chained(file):
    # A page states its stream's number; of streams one behind the other, each has its own.
    last = _last_page(file)
    file.seek(0)
    return file.read(18)[14:] != last[14:18]


def _last_page(file):
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 2 * 65307))  # no page is longer
    tail = file.read()
    return tail[tail.rfind(b"OggS") :]


def _fetch(address):
    try:
        with urllib.request.urlopen(address, timeout=30) as response:
            return response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(f"{address}: cannot be fetched ({getattr(error, 'reason', error)}).") from error


def _resample_on_device(waveform, sampling_rate, target):
    import torch

    try:
        from torchaudio.functional import resample
    except (ImportError, OSError) as error:  # OSError: it is there, but made for another torch
        raise ImportError(
            "The resampler 'torchaudio' needs torchaudio beside a torch built for CUDA (pip install 'mer[torchaudio]'); "
            'without, load the extractor with resampler="soxr".'
        ) from error
    # A forked worker of a DataLoader must not touch the GPU.
    on_gpu = torch.cuda.is_available() and torch.utils.data.get_worker_info() is None
    samples = torch.from_numpy(waveform).to("cuda" if on_gpu else "cpu")
    # A long Kaiser window: as steep as soxr's HQ.
    window = {"resampling_method": "sinc_interp_kaiser", "lowpass_filter_width": 64, "rolloff": 0.9476, "beta": 14.77}
    return resample(samples, sampling_rate, target, **window).cpu().numpy()


class MERFeatureExtractor(SequenceFeatureExtractor):
    r"""Makes the inputs of a MER model from waveforms: 30 s segments, chords and mode.

    Training and serving use the same object; its settings are saved beside the model in `preprocessor_config.json`.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000): Hz that the encoder reads.
        segment_seconds (`float`, *optional*, defaults to 30): length of a segment; the last one may be shorter.
        do_normalize (`bool`, *optional*, defaults to `True`): zero mean and unit variance for every segment.
        harmony_recognizer (`str`, *optional*): recogniser of chords and key, one of `harmony_mer.RECOGNIZERS` (the first
            by default). `None`: no recognition, harmony only where it is given.
        max_chords (`int`, *optional*, defaults to 100): chords kept of a clip, the first ones.
        resampler (`str`, *optional*, defaults to `"soxr"`): what resamples; `"torchaudio"` (the extra `mer[torchaudio]`)
            does so on the GPU where there is one, with a filter as good but not the same.
    """

    model_input_names = [
        "input_values",
        "segment_mask",
        "lengths",
        "chord_root_ids",
        "chord_quality_ids",
        "chord_mask",
        "chord_statistics",
        "mode_ids",
        "tonality",
    ]

    def __init__(
        self,
        feature_size=1,
        sampling_rate=16000,
        padding_value=0.0,
        segment_seconds=30.0,
        do_normalize=True,
        harmony_recognizer=RECOGNIZERS[0],
        max_chords=100,
        resampler="soxr",
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.segment_seconds = segment_seconds
        self.do_normalize = do_normalize
        self.harmony_recognizer = harmony_recognizer
        self.max_chords = max_chords
        if resampler not in RESAMPLERS:
            raise ValueError(f"resampler must be one of {', '.join(RESAMPLERS)}, not {resampler!r}.")
        self.resampler = resampler
        if harmony_recognizer is not None:
            check_recognizer(harmony_recognizer)  # networks are loaded at first use

    @classmethod
    def from_encoder(cls, pretrained_model_name_or_path, **kwargs):
        """The extractor for a model that was made by `MERForAudioClassification.from_encoder` of the same encoder.

        It has the rate and the normalisation of the encoder's own `preprocessor_config.json`.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder or Hub id, such as `"m-a-p/MERT-v1-95M"`.
            kwargs: `revision`, `cache_dir`, `token` and such as in `from_pretrained`; the rest are arguments of
                this class.

        Raises:
            OSError: there is no such model, or it has no `preprocessor_config.json`.
        """
        theirs, kwargs = cls.get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        taken = {name: theirs[name] for name in ("sampling_rate", "do_normalize") if name in theirs}
        return cls(**taken | kwargs)

    def __call__(self, raw_speech, sampling_rate=None, harmony=None, return_tensors=None, return_harmony=False):
        """Make the inputs of a model for one clip or a list of clips.

        Args:
            raw_speech (`np.ndarray` or list of them): waveforms as [`load_audio`] takes samples, of one rate.
            sampling_rate (`int`, *optional*): their rate in Hz; the encoder's own by default.
            harmony (`Harmony` or list, *optional*): chords and key of each clip, in place of recognising them.
            return_tensors (`str`, *optional*): `"pt"`, `"np"`.
            return_harmony (`bool`, *optional*): also return the list of [`Harmony`] as `harmony`.

        Returns:
            `BatchFeature` with `input_values (B, S, T)` float32, `segment_mask` and `lengths (B, S)`, `chord_root_ids`,
            `chord_quality_ids` and `chord_mask (B, L)`, `mode_ids (B,)`, all int64, and `chord_statistics (B, 4)` and
            `tonality (B, 8)` float32.

        Raises:
            MERAudioError: a clip that cannot be used; the sentence says which and why.
        """
        if sampling_rate is None:
            logger.warning_once(f"No sampling_rate given: the waveform is taken to be at {self.sampling_rate} Hz.")
            sampling_rate = self.sampling_rate
        many = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        clips = raw_speech if many else [raw_speech]
        waveforms = [load_audio(clip, sampling_rate)[0] for clip in clips]
        sampling_rate = int(sampling_rate)  # not one of numpy, or 44100.0
        if harmony is None:
            # One thread beside this one: chords are recognised while the segments are made.
            with ThreadPoolExecutor(1) as executor:
                futures = [executor.submit(self.recognize_harmony, waveform, sampling_rate) for waveform in waveforms]
                features = self.segment(waveforms, sampling_rate)
                harmony = [future.result() for future in futures]
        else:
            harmony = [harmony] if hasattr(harmony, "chords") else list(harmony)
            if len(harmony) != len(waveforms):
                raise ValueError(f"{len(harmony)} harmonies are given for {len(waveforms)} clips.")
            features = self.segment(waveforms, sampling_rate)
        features.update(self.encode_harmony(harmony))
        features = BatchFeature(features, tensor_type=return_tensors)
        if return_harmony:
            features["harmony"] = harmony
        return features

    def recognize_harmony(self, waveform, sampling_rate):
        """Chords and key of a mono waveform `(n,)` at `sampling_rate` Hz, as [`Harmony`]."""
        if self.harmony_recognizer is None:
            return Harmony(chords=[], key=None)
        return get_recognizer(self.harmony_recognizer)(waveform, sampling_rate)

    def segment(self, waveforms, sampling_rate):
        """Cut mono waveforms of one rate into segments at the encoder's rate.

        A last piece shorter than 0.1 s is left out: encoders need that much for a single frame.

        Returns:
            `dict` of `input_values (B, S, T)` float32 zero-padded, `segment_mask` and `lengths (B, S)` int64.
        """
        sampling_rate, size = int(sampling_rate), round(self.segment_seconds * self.sampling_rate)
        samples = [-(-len(waveform) * self.sampling_rate // sampling_rate) for waveform in waveforms]
        for clip, count in enumerate(samples):
            if 0 < count % size < MIN_SECONDS * self.sampling_rate and count > size:
                samples[clip] -= count % size
        values = np.zeros((len(waveforms), -(-max(samples) // size), size), dtype=np.float32)
        lengths = np.zeros(values.shape[:2], dtype=np.int64)
        for clip, waveform in enumerate(waveforms):
            self._resample(waveform, sampling_rate, values[clip].reshape(-1)[: samples[clip]])
            full, rest = divmod(samples[clip], size)
            lengths[clip, :full] = size
            if rest:
                lengths[clip, full] = rest
            if self.do_normalize:
                for row, length in zip(values[clip], lengths[clip]):
                    if length:
                        row[:length] -= row[:length].mean(dtype=np.float64)
                        row[:length] /= np.sqrt(row[:length].var(dtype=np.float64) + 1e-7)
        return {"input_values": values, "segment_mask": (lengths > 0).astype(np.int64), "lengths": lengths}

    def resample(self, waveform, sampling_rate):
        """A mono waveform `(n,)` float32 at the encoder's rate, as [`segment`] cuts it; itself if it has that rate."""
        sampling_rate = int(sampling_rate)
        if sampling_rate == self.sampling_rate:
            return waveform
        resampled = np.zeros(-(-len(waveform) * self.sampling_rate // sampling_rate), dtype=np.float32)
        self._resample(waveform, sampling_rate, resampled)
        return resampled

    def windows(self, waveform, starts, size):
        """Cut windows out of a mono waveform at the encoder's rate, in the loudness that a whole segment leaves them.

        A window is normalised with mean and variance of the `segment_seconds` around it (at the clip's ends: of its
        first or last ones), as the encoder was trained on parts of normalised segments. Its own would make a quiet
        part as loud as any other.

        Args:
            waveform (`np.ndarray` of shape `(n,)`): see [`resample`].
            starts (`list[int]`): first sample of each window.
            size (`int`): samples of a window, at most n.

        Returns:
            `np.ndarray` of shape `(len(starts), size)`, float32.
        """
        values = np.stack([waveform[start : start + size] for start in starts])
        if self.do_normalize:
            around = min(max(round(self.segment_seconds * self.sampling_rate), size), len(waveform))
            for row, start in zip(values, starts):
                first = min(max(start - (around - size) // 2, 0), len(waveform) - around)
                segment = waveform[first : first + around]
                row -= segment.mean(dtype=np.float64)
                row /= np.sqrt(segment.var(dtype=np.float64) + 1e-7)
        return values

    def _resample(self, waveform, sampling_rate, out):
        # As librosa does it (soxr), but block by block to where it is needed: a long clip has no second copy.
        if sampling_rate == self.sampling_rate:
            out[:] = waveform[: len(out)]
            return
        if self.resampler == "torchaudio":
            out[:] = _resample_on_device(waveform, sampling_rate, self.sampling_rate)[: len(out)]
            return
        stream = soxr.ResampleStream(sampling_rate, self.sampling_rate, 1, dtype="float32", quality="HQ")
        step, done = 30 * sampling_rate, 0
        for start in range(0, len(waveform), step):
            block = stream.resample_chunk(waveform[start : start + step], last=start + step >= len(waveform))
            block = block[: len(out) - done]
            out[done : done + len(block)] = block
            done += len(block)

    def encode_harmony(self, harmony):
        """List of B [`Harmony`] -> `chord_root_ids`, `chord_quality_ids`, `chord_mask (B, L)`, `mode_ids (B,)`, int64,
        and, float32, `chord_statistics (B, 4)`, what [`summarize_chords`] counts, and `tonality (B, 8)`, see
        [`Harmony`]; of unknown tonality, `NO_TONALITY`."""
        encoded = [encode_chords(clip.chords, clip.key, self.max_chords) for clip in harmony]
        length = max(len(roots) for roots, _ in encoded)
        ids = np.zeros((3, len(encoded), length), dtype=np.int64)
        for clip, (roots, qualities) in enumerate(encoded):
            ids[0, clip, : len(roots)] = roots
            ids[1, clip, : len(roots)] = qualities
            ids[2, clip, : len(roots)] = 1
        statistics = [summarize_chords(clip.chords, self.segment_seconds) for clip in harmony]
        modes = [0 if clip.key is None else MODES.index(Key.parse(str(clip.key)).mode) for clip in harmony]
        tonality = [NO_TONALITY if clip.tonality is None else clip.tonality for clip in harmony]
        for numbers in tonality:
            if len(numbers) != len(NO_TONALITY) or not np.isfinite(numbers).all():
                raise ValueError(f"tonality must be {len(NO_TONALITY)} finite numbers or None, not {numbers}.")
        return {
            "chord_root_ids": ids[0],
            "chord_quality_ids": ids[1],
            "chord_mask": ids[2],
            "chord_statistics": np.array(statistics, dtype=np.float32),
            "mode_ids": np.array(modes, dtype=np.int64),
            "tonality": np.array(tonality, dtype=np.float32),
        }


__all__ = ["FORMATS", "MERAudioError", "MERFeatureExtractor", "check_waveform", "load_audio"]

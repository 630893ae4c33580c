"""The ``audio-classification`` pipeline of MER: music in, mood tags, valence, arousal, chords and key out."""

import math
import numbers
import threading
from bisect import bisect_left, bisect_right

import numpy as np
import torch
from transformers import AudioClassificationPipeline

from .configuration_mer import QUADRANTS
from .feature_extraction_mer import MIN_SECONDS, load_audio

MIN_CURVE, MAX_CURVE = 1, 30  # seconds in a window of a mood curve; encoders are trained on up to 30
WINDOW_TAGS = 5  # tags of a window, unless top_k says otherwise
# Windows that exist at a time: a long song has thousands, which overlap.
WINDOWS_AT_ONCE = 32


class _Harmony:
    """Chords and key on their way: recognised in a thread of their own while the encoder runs."""

    def __init__(self, recognize, waveform, sampling_rate):
        self._value = self._error = None
        # Not a daemon: a process that ends while a network runs in one is aborted.
        self._thread = threading.Thread(target=self._run, args=(recognize, waveform, sampling_rate))
        self._thread.start()

    def _run(self, *args):
        recognize, *audio = args
        try:
            self._value = recognize(*audio)
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    def result(self):
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error
        return self._value

    def __getstate__(self):
        # A worker process of a DataLoader hands over the result, or what went wrong, as an error that surely gets there.
        if self._thread is not None:
            self._thread.join()
        error = self._error
        if error is not None:
            kinds = (kind for kind in (ImportError, OSError, ValueError) if isinstance(error, kind))
            error = next(kinds, RuntimeError)(str(error) or type(error).__name__)
        return {"_value": self._value, "_error": error, "_thread": None}


def curve_hop(curve, hop=None):
    """Seconds from one window of a mood curve to the next: half a window by default; `None` where there is no curve.

    Raises:
        ValueError: a window of `curve` seconds, or this hop, makes no sense.
    """
    if curve is None:
        if hop is not None:
            raise ValueError("hop is the way from one window of a curve to the next; give curve, too.")
        return None
    if not _is_number(curve) or not MIN_CURVE <= curve <= MAX_CURVE:
        raise ValueError(f"curve must be a number of seconds from {MIN_CURVE} to {MAX_CURVE}, not {curve!r}.")
    if hop is None:
        return curve / 2
    if not _is_number(hop) or not MIN_SECONDS <= hop <= curve:
        raise ValueError(f"hop must be a number of seconds from {MIN_SECONDS} to the curve's {curve:g}, not {hop!r}.")
    return hop


def check_threshold(threshold):
    """Raise a `ValueError` unless it is `None` or a number from 0 to 1."""
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"threshold must be a number from 0 to 1, not {threshold!r}.")


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def window_times(duration, curve, hop):
    """Windows of a mood curve as (start, end), seconds: all of one length, the last one up to the end of the clip.

    A clip that is shorter than a window is one window.
    """
    last = max(duration - curve, 0.0)
    # Regular ones; one that starts within a millisecond of the last one is the last one.
    starts = [index * hop for index in range(math.ceil((last - 1e-3) / hop))]
    return [*((float(start), float(start + curve)) for start in starts), (float(last), float(duration))]


def _harmony_within(harmony, times):
    """The chords that sound in each of some windows (in order), cut to it, and the clip's key and tonality: list of
    `Harmony`."""
    starts, ends = ([chord[place] for chord in harmony.chords] for place in (0, 1))
    parts = []
    for start, end in times:
        chords = harmony.chords[bisect_right(ends, start) : bisect_left(starts, end)]
        chords = [chord._replace(start=max(chord.start, start), end=min(chord.end, end)) for chord in chords]
        parts.append(harmony._replace(chords=chords))
    return parts


def prepare(source, extractor, curve=None, hop=None):
    """Decode a clip and cut it into segments, and let its harmony be heard in a thread.

    Args:
        source: whatever [`load_audio`] takes; a waveform alone is at the model's own rate.
        extractor (`MERFeatureExtractor`): the model's.
        curve, hop (`float`, *optional*): seconds of a window of the mood curve and from one to the next.

    Returns:
        `dict` of `input_values` (1, S, T) and `lengths` (1, S), arrays, and `clip`, a `dict` of `duration` (seconds),
        `harmony` (on its way) and, of a curve, `waveform` (n,) at the encoder's rate and `times`. It may pass between
        processes.
    """
    hop = curve_hop(curve, hop)
    waveform, sampling_rate = load_audio(source, extractor.sampling_rate)
    duration = len(waveform) / sampling_rate
    clip = {"duration": duration, "harmony": _Harmony(extractor.recognize_harmony, waveform, sampling_rate)}
    if curve is not None:
        waveform, sampling_rate = extractor.resample(waveform, sampling_rate), extractor.sampling_rate
        clip |= {"waveform": waveform, "times": window_times(duration, curve, hop)}
    features = extractor.segment([waveform], sampling_rate)
    return {"input_values": features["input_values"], "lengths": features["lengths"], "clip": clip}


def as_tensors(prepared):
    """What [`prepare`] returns, with tensors in place of arrays."""
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in prepared.items()
    }


class MERPipeline(AudioClassificationPipeline):
    """Mood tags, and on request valence, arousal, chords and key, of any music.

    Examples:

    ```python
    >>> from transformers import pipeline

    >>> pipe = pipeline("audio-classification", model=".", trust_remote_code=True)
    >>> pipe("samples/bright.ogg", top_k=3)
    >>> pipe("samples/bright.ogg", return_valence_arousal=True)
    >>> pipe("samples/bright.ogg", curve=5.0, hop=2.5)["curve"]
    ```

    Inputs, one or a list of them, are whatever [`load_audio`] takes: a path, an `http(s)` address, `bytes`, a dict with
    `array` and `sampling_rate` (mono or stereo, any rate), or a waveform at the model's own rate.
    """

    def __init__(self, *args, top_k=None, **kwargs):
        super().__init__(*args, top_k=top_k, **kwargs)

    def __call__(self, inputs, **kwargs):
        """Tag music.

        Args:
            inputs: one clip or a list of clips, see above.
            top_k (`int`, *optional*): return only so many tags, the likeliest. All by default.
            return_valence_arousal (`bool`, *optional*): return a dict in place of the list of tags.
            curve (`float`, *optional*): also follow the mood through the clip, in windows of so many seconds (1 to 30);
                returns a dict.
            hop (`float`, *optional*): seconds from one window to the next; half a window by default.
            threshold (`float`, *optional*): score, 0 to 1, from which on a tag is one of the `moods`. By default each
                tag's own of `config.thresholds`, or 0.5 where the model has none.
            function_to_apply (`str`, *optional*): "sigmoid" (the default), "softmax" or "none".
            batch_size (`int`, *optional*): clips that pass through the model together.

        Returns:
            `list[dict]`: tags as `{"label": str, "score": float}`, likeliest first; with `return_valence_arousal` or
            `curve` a `dict` of `tags` (that list), `valence` and `arousal` (`float`, on `scale`), `scale` ([1, 9]),
            `quadrants` (the probability of each of "Q1" to "Q4"; the two lie in the likeliest, save on an edge),
            `chords` (list of `start`, `end` in seconds and `label`), `key` ("A minor", or `None`), `duration`
            (seconds), `moods` (labels whose sigmoid reaches the threshold, likeliest first), `threshold` (`None`: each
            tag's own) and, with `curve`, `curve`: a list of windows in order, each a `dict` of `start`, `end`,
            `valence`, `arousal` and `tags` (`top_k` or 5 of them). A list of these for a list of clips.

        Raises:
            MERAudioError (a `ValueError`), OSError: a clip that cannot be used, see [`load_audio`].
            ValueError: an argument that makes no sense.
        """
        return super().__call__(inputs, **kwargs)

    def check_model_type(self, supported_models):
        """Accept MER models only."""
        if self.model.config.model_type != "mer":
            raise ValueError(f"MERPipeline serves MER models, not {self.model.config.model_type!r}.")

    def _sanitize_parameters(self, **kwargs):
        # Only what is given is returned: what was set at construction then holds for every call.
        preparation, parameters = {}, {}
        if "curve" in kwargs:  # without a hop: the default one, not that of another window
            preparation = {"curve": kwargs.pop("curve"), "hop": kwargs.pop("hop", None)}
            curve_hop(**preparation)
        elif "hop" in kwargs:
            preparation = {"hop": kwargs.pop("hop")}
        if "threshold" in kwargs:
            check_threshold(kwargs["threshold"])
            parameters["threshold"] = kwargs.pop("threshold")
        if "top_k" in kwargs:
            top_k = kwargs.pop("top_k")
            if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
                raise ValueError(f"top_k must be a whole number from 1 up, not {top_k!r}.")
            parameters["top_k"] = top_k
        if "return_valence_arousal" in kwargs:
            parameters["return_valence_arousal"] = bool(kwargs.pop("return_valence_arousal"))
        function = kwargs.pop("function_to_apply", None)
        if function is not None:
            if function not in ("sigmoid", "softmax", "none"):
                raise ValueError(f"function_to_apply must be 'sigmoid', 'softmax' or 'none', not {function!r}.")
            parameters["function_to_apply"] = function
        if kwargs:
            raise TypeError(f"MERPipeline does not know {', '.join(sorted(kwargs))}.")
        return preparation, {}, parameters

    def preprocess(self, inputs, curve=None, hop=None):
        return as_tensors(prepare(inputs, self.feature_extractor, curve, hop))

    def _forward(self, model_inputs):
        lengths, clips = model_inputs["lengths"], model_inputs["clip"]
        clips = clips if isinstance(clips, list) else [clips]
        segment_embeddings = model_inputs.get("segment_embeddings")
        if segment_embeddings is None:
            segment_embeddings = self.model.encode(model_inputs["input_values"], lengths)
        # All encoding comes first: chords are recognised meanwhile.
        windows = [self._encode_windows(**clip) if "times" in clip else None for clip in clips]
        harmony = [clip["harmony"].result() for clip in clips]
        logits, valence_arousal, quadrants = self._heads(segment_embeddings, harmony, lengths)
        heard = []
        for clip, embeddings, chords in zip(clips, windows, harmony):
            heard.append({"duration": clip["duration"], "harmony": clip["harmony"]})
            if embeddings is not None:
                times = clip["times"]
                curve = self._heads(embeddings[:, None], _harmony_within(chords, times))
                heard[-1]["curve"] = [times, *curve]
        return {"logits": logits, "valence_arousal": valence_arousal, "quadrants": quadrants, "clip": heard}

    def _encode_windows(self, waveform, times, **_):
        """Embeddings (N, D) of the windows of a clip, which are made a few at a time."""
        rate = self.feature_extractor.sampling_rate
        size = len(waveform) if len(times) == 1 else round((times[0][1] - times[0][0]) * rate)
        starts = [min(round(start * rate), len(waveform) - size) for start, _ in times]
        embeddings = []
        for first in range(0, len(starts), WINDOWS_AT_ONCE):
            values = self.feature_extractor.windows(waveform, starts[first : first + WINDOWS_AT_ONCE], size)
            embeddings.append(self.model.encode(torch.from_numpy(values)[None].to(self.device))[0])
        return torch.cat(embeddings)

    def _heads(self, segment_embeddings, harmony, lengths=None):
        """Embeddings (B, S, D) and B `Harmony` -> logits (B, tags), [valence, arousal] (B, 2), probabilities of Q1 to Q4
        (B, 4), float32."""
        encoded = self.feature_extractor.encode_harmony(harmony)
        output = self.model(
            segment_embeddings=segment_embeddings,
            lengths=lengths,
            **{name: torch.from_numpy(value).to(self.device) for name, value in encoded.items()},
        )
        quadrants = (output.quadrant_logits.float() / self.model.config.quadrant_temperature).softmax(-1)
        return output.logits.float(), output.valence_arousal.float(), quadrants

    def postprocess(
        self, model_outputs, top_k=None, return_valence_arousal=False, function_to_apply="sigmoid", threshold=None
    ):
        clip, logits = model_outputs["clip"], model_outputs["logits"]
        clip = clip[0] if isinstance(clip, list) else clip
        tags = self._rank(logits, function_to_apply, top_k)[0]
        if not return_valence_arousal and "curve" not in clip:
            return tags
        config, harmony = self.model.config, clip["harmony"].result()
        threshold = decision_threshold(config, threshold)
        least = {
            label: config.thresholds[index] if threshold is None else threshold
            for index, label in config.id2label.items()
        }
        valence, arousal = self._on_scale(model_outputs["valence_arousal"])[0]
        answer = {
            "tags": tags,
            "valence": valence,
            "arousal": arousal,
            "scale": list(config.valence_arousal_range),
            "quadrants": dict(zip(QUADRANTS, model_outputs["quadrants"][0].tolist())),
            "chords": [chord._asdict() for chord in harmony.chords],
            "key": None if harmony.key is None else str(harmony.key),
            "duration": clip["duration"],
            "moods": [tag["label"] for tag in self._rank(logits)[0] if tag["score"] >= least[tag["label"]]],
            "threshold": threshold,
        }
        if "curve" in clip:
            times, logits, valence_arousal, _ = clip["curve"]
            ranked = self._rank(logits, function_to_apply, top_k or WINDOW_TAGS)
            windows = zip(times, self._on_scale(valence_arousal), ranked)
            answer["curve"] = [
                {"start": start, "end": end, "valence": valence, "arousal": arousal, "tags": tags}
                for (start, end), (valence, arousal), tags in windows
            ]
        return answer

    def _rank(self, logits, function_to_apply="sigmoid", top_k=None):
        """Logits (N, tags) -> N lists of `{"label", "score"}`, likeliest first."""
        logits = logits.float()
        scores = {"sigmoid": logits.sigmoid(), "softmax": logits.softmax(-1), "none": logits}[function_to_apply]
        values, order = (ranked[:, :top_k].tolist() for ranked in scores.sort(descending=True, stable=True))
        labels = self.model.config.id2label
        return [
            [{"label": labels[index], "score": score} for index, score in zip(*ranked)] for ranked in zip(order, values)
        ]

    def _on_scale(self, valence_arousal):
        """[valence, arousal] (N, 2) -> N pairs, clipped to the scale."""
        return valence_arousal.float().clamp(*self.model.config.valence_arousal_range).tolist()


def decision_threshold(config, threshold=None):
    """The score from which on a tag holds: the given one, or 0.5; `None` where each tag of the model has its own."""
    if threshold is not None:
        return float(threshold)
    return 0.5 if config.thresholds is None else None


__all__ = ["MERPipeline"]

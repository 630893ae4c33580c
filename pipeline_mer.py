"""The ``audio-classification`` pipeline of MER: music in, mood tags, valence, arousal, chords and key out."""

import threading

import numpy as np
import torch
from transformers import AudioClassificationPipeline

from .feature_extraction_mer import load_audio


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
        # A worker process of a DataLoader hands over the result.
        return {"_value": self.result(), "_error": None, "_thread": None}


def prepare(source, extractor):
    """Decode a clip and cut it into segments, and let its harmony be heard in a thread.

    Args:
        source: whatever [`load_audio`] takes; a waveform alone is at the model's own rate.
        extractor (`MERFeatureExtractor`): the model's.

    Returns:
        `dict` of `input_values` (1, S, T) and `lengths` (1, S), arrays, and `harmony`. It may pass between processes.
    """
    waveform, sampling_rate = load_audio(source, extractor.sampling_rate)
    harmony = _Harmony(extractor.recognize_harmony, waveform, sampling_rate)
    features = extractor.segment([waveform], sampling_rate)
    return {"input_values": features["input_values"], "lengths": features["lengths"], "harmony": harmony}


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
            function_to_apply (`str`, *optional*): "sigmoid" (the default), "softmax" or "none".
            batch_size (`int`, *optional*): clips that pass through the model together.

        Returns:
            `list[dict]`: tags as `{"label": str, "score": float}`, likeliest first; with `return_valence_arousal` a
            `dict` of `tags` (that list), `valence` and `arousal` (`float`, on `scale`), `scale` ([1, 9]), `chords`
            (list of `start`, `end` in seconds and `label`) and `key` ("A minor", or `None`). A list of these for a
            list of clips.

        Raises:
            MERAudioError (a `ValueError`), OSError: a clip that cannot be used, see [`load_audio`].
        """
        return super().__call__(inputs, **kwargs)

    def check_model_type(self, supported_models):
        """Accept MER models only."""
        if self.model.config.model_type != "mer":
            raise ValueError(f"MERPipeline serves MER models, not {self.model.config.model_type!r}.")

    def _sanitize_parameters(self, **kwargs):
        # Only what is given is returned: what was set at construction then holds for every call.
        parameters = {}
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
        return {}, {}, parameters

    def preprocess(self, inputs):
        return as_tensors(prepare(inputs, self.feature_extractor))

    def _forward(self, model_inputs):
        lengths, pending = model_inputs["lengths"], model_inputs["harmony"]
        pending = pending if isinstance(pending, list) else [pending]
        segment_embeddings = model_inputs.get("segment_embeddings")
        if segment_embeddings is None:
            segment_embeddings = self.model.encode(model_inputs["input_values"], lengths)
        harmony = self.feature_extractor.encode_harmony([clip.result() for clip in pending])
        output = self.model(
            segment_embeddings=segment_embeddings,
            lengths=lengths,
            **{name: torch.from_numpy(value).to(self.device) for name, value in harmony.items()},
        )
        return {"logits": output.logits, "valence_arousal": output.valence_arousal, "harmony": pending}

    def postprocess(self, model_outputs, top_k=None, return_valence_arousal=False, function_to_apply="sigmoid"):
        logits = model_outputs["logits"][0].float()
        scores = {"sigmoid": logits.sigmoid(), "softmax": logits.softmax(-1), "none": logits}[function_to_apply]
        values, order = scores.sort(descending=True, stable=True)
        labels = self.model.config.id2label
        tags = [{"label": labels[i], "score": value} for i, value in zip(order.tolist(), values.tolist())][:top_k]
        if not return_valence_arousal:
            return tags
        low, high = self.model.config.valence_arousal_range
        valence, arousal = model_outputs["valence_arousal"][0].float().clamp(low, high).tolist()
        pending = model_outputs["harmony"]
        harmony = (pending[0] if isinstance(pending, list) else pending).result()
        return {
            "tags": tags,
            "valence": valence,
            "arousal": arousal,
            "scale": [low, high],
            "chords": [chord._asdict() for chord in harmony.chords],
            "key": None if harmony.key is None else str(harmony.key),
        }


__all__ = ["MERPipeline"]

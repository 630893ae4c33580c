"""MER: music emotion recognition, mood tags and valence/arousal of any piece of music."""

__version__ = "0.1.0"

__all__ = [
    "Chord",
    "Harmony",
    "Key",
    "MERAudioError",
    "MERConfig",
    "MERFeatureExtractor",
    "MERForAudioClassification",
    "MERMelConfig",
    "MERModel",
    "MEROutput",
    "MERPipeline",
    "MERPreTrainedModel",
    "load_audio",
]


def __getattr__(name):
    # At the first use of a name, so that `mer --help` does not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _load()
    return globals()[name]


def __dir__():
    return sorted({*globals(), *__all__})


def _load():
    """Import all public names and register the classes with transformers."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

    from .configuration_mer import MERConfig, MERMelConfig
    from .feature_extraction_mer import MERAudioError, MERFeatureExtractor, load_audio
    from .harmony_mer import Chord, Harmony, Key
    from .modeling_mer import MERForAudioClassification, MERModel, MEROutput, MERPreTrainedModel
    from .pipeline_mer import MERPipeline

    AutoConfig.register("mer", MERConfig)
    AutoModel.register(MERConfig, MERModel)
    AutoModelForAudioClassification.register(MERConfig, MERForAudioClassification)
    AutoFeatureExtractor.register(MERConfig, MERFeatureExtractor)

    # What is saved takes its code along, so that it loads where the package is not installed.
    MERConfig.register_for_auto_class()
    MERModel.register_for_auto_class("AutoModel")
    MERForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
    MERFeatureExtractor.register_for_auto_class()

    globals().update({name: value for name, value in locals().items() if name in __all__})

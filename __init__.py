"""MER: music emotion recognition, mood tags and valence/arousal of any piece of music."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_mer import MERConfig, MERMelConfig
from .feature_extraction_mer import MERAudioError, MERFeatureExtractor, load_audio
from .harmony_mer import Chord, Harmony, Key
from .modeling_mer import MERForAudioClassification, MERModel, MEROutput, MERPreTrainedModel
from .pipeline_mer import MERPipeline

__version__ = "0.1.0"

AutoConfig.register("mer", MERConfig)
AutoModel.register(MERConfig, MERModel)
AutoModelForAudioClassification.register(MERConfig, MERForAudioClassification)
AutoFeatureExtractor.register(MERConfig, MERFeatureExtractor)

# What is saved takes its code along, so that it loads where the package is not installed.
MERConfig.register_for_auto_class()
MERModel.register_for_auto_class("AutoModel")
MERForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
MERFeatureExtractor.register_for_auto_class()

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

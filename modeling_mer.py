"""The MER network: an audio encoder, chords and mode in; mood tags, valence and arousal out.

Method: Kang & Herremans, "Towards Unified Music Emotion Recognition across Dimensional and Categorical
Models" (2025, arXiv 2502.03979).
"""

import copy
import math
from dataclasses import dataclass

import librosa
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    HubertConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, logging

from .configuration_mer import MERConfig, MERMelConfig
from .feature_extraction_mer import MERFeatureExtractor
from .harmony_mer import NO_CHORDS, NO_TONALITY

# Not used here: the files that this one imports are saved beside the weights, so every saved model brings its pipeline.
from .pipeline_mer import MERPipeline  # noqa: F401

logger = logging.get_logger(__name__)

# Encoders of transformers that read a waveform, by model_type; MERT is a HuBERT under another name.
WAVEFORM_ENCODERS = ("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
MERT = "mert_model"
# What checkpoints of those hold beside the encoder: heads of pre-training and of other tasks.
_OTHER_HEADS = ("classifier", "final_proj", "lm_head", "project_hid", "project_q", "projector", "quantizer")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")

# Segments that pass through the encoder together: bounds the memory that a long clip takes.
SEGMENTS_AT_ONCE = 8
# Layers of a waveform encoder's convolutions that a CPU computes in tiles of time, and frames in a tile of the last of
# them: what the first layers make of a segment is ten times what its cache holds, what comes behind them fits.
TILED_LAYERS, TILE_FRAMES = 5, 512


@dataclass
class MEROutput(ModelOutput):
    """What MER computes of a batch of B clips with up to S segments each.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, when any kind of label is given): sum of the parts below.
        logits (`torch.FloatTensor` of shape `(B, num_labels)`): one logit a tag; the sigmoid is its probability.
        valence_arousal (`torch.FloatTensor` of shape `(B, 2)`): [valence, arousal] on `config.valence_arousal_range`
            (1 to 9), not clipped.
        quadrant_logits (`torch.FloatTensor` of shape `(B, 4)`): one logit each of Q1 (V+A+), Q2 (V-A+), Q3 (V-A-) and
            Q4 (V+A-); the likeliest is the one that valence and arousal lie in. Of a head that regresses those, the
            distances from the middle of the scale are the logits of two independent signs; with
            `config.quadrant_head`, valence is the middle plus the best of Q1 and Q4 less the best of Q2 and Q3, and
            arousal likewise.
        embedding (`torch.FloatTensor` of shape `(B, trunk_size)`): output of the trunk that all heads read.
        segment_embeddings (`torch.FloatTensor` of shape `(B, S, D)`): output of the encoder, zero where there is no
            segment. Given back to `forward`, it takes the place of `input_values`.
        mood_loss, valence_arousal_loss, quadrant_loss (`torch.FloatTensor` of shape `(1,)`): parts of `loss`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    valence_arousal: torch.FloatTensor | None = None
    quadrant_logits: torch.FloatTensor | None = None
    embedding: torch.FloatTensor | None = None
    segment_embeddings: torch.FloatTensor | None = None
    mood_loss: torch.FloatTensor | None = None
    valence_arousal_loss: torch.FloatTensor | None = None
    quadrant_loss: torch.FloatTensor | None = None


class MERMelBlock(GradientCheckpointingLayer):
    """Residual block over time: depthwise convolution, then a two-layer network at every frame."""

    def __init__(self, config):
        super().__init__()
        self.depthwise = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            config.kernel_size,
            padding=config.kernel_size // 2,
            groups=config.hidden_size,
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.reduce = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states):
        """(N, frames, hidden) -> (N, frames, hidden)."""
        branch = self.depthwise(hidden_states.transpose(1, 2)).transpose(1, 2)
        branch = self.reduce(nn.functional.gelu(self.expand(self.norm(branch))))
        return hidden_states + self.dropout(branch)


class MERMelEncoder(nn.Module):
    """Compact encoder: waveform -> log-mel bands -> convolutional stem -> blocks over time, 6.25 frames/s."""

    def __init__(self, config: MERMelConfig):
        super().__init__()
        self.config = config
        filters = librosa.filters.mel(
            sr=config.sampling_rate,
            n_fft=config.n_fft,
            n_mels=config.num_mel_bins,
            fmin=config.min_frequency,
            fmax=config.max_frequency,
        )
        # Persistent: loading happens on the meta device, where only what the weights file holds survives.
        self.register_buffer("mel_filters", torch.tensor(filters, dtype=torch.float32))
        self.mel_norm = nn.BatchNorm1d(config.num_mel_bins)
        stages, channels = [], 1
        for width in config.stem_channels:
            stages += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.stem = nn.Sequential(*stages)
        self.projection = nn.Linear(
            channels * config.num_mel_bins // 2 ** len(config.stem_channels), config.hidden_size
        )
        self.layers = nn.ModuleList(MERMelBlock(config) for _ in range(config.num_hidden_layers))

    def log_mel(self, input_values):
        """Waveforms (N, T) of unit variance -> log mel power (N, num_mel_bins, 1 + T // hop_length), float32."""
        spectrum = torch.stft(
            input_values.float(),
            self.config.n_fft,
            self.config.hop_length,
            window=torch.hann_window(self.config.n_fft, device=input_values.device),
            pad_mode="constant",
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        with torch.autocast(input_values.device.type, enabled=False):  # power is beyond what float16 holds
            return (self.mel_filters.float() @ power + 1e-2).log()

    def forward_mel(self, log_mel):
        """Log mel power (N, num_mel_bins, frames) -> hidden states (N, frames / 8, hidden): stem, then each layer."""
        features = self.mel_norm(log_mel.to(self.projection.weight.dtype)).unsqueeze(1)
        features = self.stem(features.to(memory_format=torch.channels_last))
        hidden_states = [self.projection(features.permute(0, 3, 1, 2).flatten(2))]
        for layer in self.layers:
            hidden_states.append(layer(hidden_states[-1]))
        return tuple(hidden_states)

    def forward(self, input_values):
        """Waveforms (N, T) -> hidden states, a tuple of num_hidden_layers + 1 tensors (N, frames, hidden)."""
        return self.forward_mel(self.log_mel(input_values))


class MERChordEncoder(nn.Module):
    """Chord ids -> one vector a clip: embeddings, sinusoidal positions, a transformer, the output at its CLS."""

    def __init__(self, config: MERConfig):
        super().__init__()
        self.padding_mask = config.chord_padding_mask
        self.max_chords = config.max_chords
        self.root_embedding = nn.Embedding(config.chord_vocab_size, config.chord_embedding_size)
        self.quality_embedding = nn.Embedding(config.chord_vocab_size, config.chord_embedding_size)
        layer = nn.TransformerEncoderLayer(
            config.chord_size,
            config.chord_heads,
            config.chord_intermediate_size,
            config.chord_dropout,
            batch_first=True,
        )
        self.transformer = nn.TransformerEncoder(layer, config.chord_layers, enable_nested_tensor=False)

    @staticmethod
    def positions(length, size, device):
        """Sinusoidal positions (length, size): sine at even places, cosine at odd ones (Vaswani et al., 2017)."""
        place = torch.arange(length, device=device).unsqueeze(1)
        rate = torch.exp(torch.arange(0, size, 2, device=device) * (-math.log(10000.0) / size))
        return torch.stack(((place * rate).sin(), (place * rate).cos()), dim=-1).flatten(1)

    @staticmethod
    def _at_cls(layer, sequence, padding):
        """Output of a transformer layer at its first place: the others, which cost L times as much, are not read."""
        cls = sequence[:, :1]
        heard, _ = layer.self_attn(cls, sequence, sequence, key_padding_mask=padding, need_weights=False)
        cls = layer.norm1(cls + layer.dropout1(heard))
        branch = layer.linear2(layer.dropout(layer.activation(layer.linear1(cls))))
        return layer.norm2(cls + layer.dropout2(branch))[:, 0]

    def forward(self, root_ids, quality_ids, mask):
        """Ids and mask (B, L), 1 = a chord -> (B, 2 * chord_embedding_size)."""
        if not self.padding_mask:  # as published, every clip has the same number of chords, with N behind its own
            missing = max(self.max_chords - root_ids.shape[1], 0)
            root_ids, quality_ids, mask = (nn.functional.pad(x, (0, missing)) for x in (root_ids, quality_ids, mask))
        chords = torch.cat((self.root_embedding(root_ids), self.quality_embedding(quality_ids)), dim=-1)
        chords = chords + self.positions(chords.shape[1], chords.shape[2], chords.device).to(chords.dtype)
        # The CLS is a zero vector in front, without a position, as published.
        sequence = nn.functional.pad(chords, (0, 0, 1, 0))
        padding = nn.functional.pad(mask == 0, (1, 0)) if self.padding_mask else None
        for layer in self.transformer.layers[:-1]:
            sequence = layer(sequence, src_key_padding_mask=padding)
        vectors = self._at_cls(self.transformer.layers[-1], sequence, padding)
        # A zero vector that hears only itself is normalised four times over, which blows its gradient up a
        # billionfold: clips without chords read this network, but do not train it.
        heard = (mask != 0).any(dim=1, keepdim=True)
        return torch.where(heard, vectors, vectors.detach()) if self.padding_mask else vectors


class _TiledConvolutions:
    """Forward of a waveform encoder's convolutions on a CPU: the same numbers, in tiles of time that fit its cache.

    The first layer's normalisation over time ("group") becomes part of its weights: mean and variance of its output
    follow from those of its input windows.
    """

    def forward(self, input_values):
        head = self.conv_layers[0]
        norm = getattr(head, "layer_norm", None)
        folded = isinstance(norm, nn.GroupNorm)
        plain = not folded or (_computes_as(head.conv, nn.Conv1d) and _computes_as(norm, nn.GroupNorm))
        if not plain or not all(map(_unhooked, self.conv_layers)) or not _plain_inference(input_values):
            return super().forward(input_values)
        tiled, rest = self.conv_layers[:TILED_LAYERS], self.conv_layers[TILED_LAYERS:]
        field, hop = 1, 1
        for layer in tiled:
            field += (layer.conv.kernel_size[0] - 1) * hop
            hop *= layer.conv.stride[0]
        frames = (input_values.shape[1] - field) // hop + 1
        clips = []
        for clip in input_values[:, None]:
            head, *layers = tiled
            if folded:
                head = self._with_norm(head, clip[0])
            tiles = []
            for first in range(0, frames, TILE_FRAMES):
                last = min(first + TILE_FRAMES, frames) - 1
                tile = clip[None, :, first * hop : last * hop + field]
                for layer in (head, *layers):
                    tile = layer(tile)
                tiles.append(tile)
            features = torch.cat(tiles, dim=-1)
            for layer in rest:
                features = layer(features)
            clips.append(features)
        return torch.cat(clips)

    @staticmethod
    def _with_norm(layer, samples):
        conv, norm = layer.conv, layer.layer_norm
        weight = conv.weight[:, 0].double()
        windows = samples.unfold(0, conv.kernel_size[0], conv.stride[0]).double()
        mean = windows.mean(dim=0)
        covariance = (windows - mean).T @ (windows - mean) / len(windows)
        scale = norm.weight / ((weight @ covariance * weight).sum(1) + norm.eps).sqrt()
        # A bias of the convolution would be taken away with the mean.
        bias = (norm.bias - weight @ mean * scale).to(samples.dtype)
        weight = (weight * scale[:, None])[:, None].to(samples.dtype)
        return lambda tile: layer.activation(nn.functional.conv1d(tile, weight, bias, conv.stride))


class _FourierPositions:
    """Forward of the convolution that tells a waveform encoder positions, on a CPU: the same numbers by way of Fourier.

    Its kernel is so long (128 frames) that blocks of the spectrum (overlap-save) take a third of the time.
    """

    def forward(self, hidden_states):
        plain = getattr(self, "batch_norm", None) is None and _computes_as(self.conv, nn.Conv1d)
        if not plain or not _plain_inference(hidden_states):
            return super().forward(hidden_states)
        weight = self.conv.weight.float()
        groups, (channels, inputs, kernel) = self.conv.groups, weight.shape
        size = kernel * 3 // 2
        hop = size - kernel + 1
        clips, frames, _ = hidden_states.shape
        blocks = -(-frames // hop)
        left = self.conv.padding[0]
        padded = nn.functional.pad(hidden_states.float().transpose(1, 2), (left, blocks * hop - frames + kernel - left))
        windows = padded.unfold(-1, size, hop)[:, :, :blocks].reshape(clips, groups, inputs, blocks, size)
        # To (frequencies, groups, windows, channels): a product of matrices for every frequency and group.
        spectrum = torch.fft.rfft(windows).permute(4, 1, 0, 3, 2).flatten(2, 3)
        kernels = torch.fft.rfft(weight, n=size).conj().view(groups, channels // groups, inputs, -1).permute(3, 0, 2, 1)
        product = (spectrum @ kernels).view(-1, groups, clips, blocks, channels // groups).permute(2, 1, 4, 3, 0)
        summed = torch.fft.irfft(product, n=size)[..., :hop].reshape(clips, channels, -1)[..., :frames]
        summed = (summed + self.conv.bias[:, None]).to(hidden_states.dtype)
        return self.activation(summed).transpose(1, 2)


class _ConvolvedFeedForward:
    """Forward of a waveform encoder's feed-forward network on a CPU in float32: the same numbers, a twentieth faster.

    The wider of its two layers as a convolution of one frame, since torch's convolutions (oneDNN) are faster there than
    its products of matrices; for the narrower one they are not.
    """

    def forward(self, hidden_states):
        wide = self.intermediate_dense
        plain = not self.training and hidden_states.dtype == torch.float32 and _computes_as(wide, nn.Linear)
        if not plain or not _plain_inference(hidden_states):
            return super().forward(hidden_states)
        features = nn.functional.conv1d(hidden_states.transpose(1, 2), wide.weight[:, :, None], wide.bias)
        return self.output_dense(self.intermediate_act_fn(features).transpose(1, 2))


def attend_by_head(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention of transformers' interface; on a CPU in bfloat16 head by head, by torch's products of matrices.

    Those are a third faster there than its fused attention, and the scores of one head fit the cache.
    """
    quick = query.dtype == torch.bfloat16 and attention_mask is None and _plain_inference(query)
    if not quick:
        usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return usual(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    clips, heads, frames, size = query.shape
    heard = query.new_empty(clips, frames, heads, size)
    query = query * (size**-0.5 if scaling is None else scaling)
    for clip in range(clips):
        for head in range(heads):
            q, k, v = (values[clip, head].contiguous() for values in (query, key, value))
            heard[clip, :, head] = (q @ k.T).softmax(-1) @ v
    return heard, None


AttentionInterface.register("mer_by_head", attend_by_head)
AttentionMaskInterface.register("mer_by_head", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def _plain_inference(values):
    # Without gradients, on a CPU, and not while a graph is recorded, which knows no loops of unknown length.
    return values.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_exporting()


def _unhooked(module):
    return not module._forward_hooks and not module._forward_pre_hooks


def _computes_as(module, kind):
    # Not where an adapter, a quantised layer or a hook has taken its place, which its weight alone does not know of.
    return getattr(module.forward, "__func__", None) is kind.forward and _unhooked(module)


def _quicken(encoder):
    """Let a waveform encoder of transformers use the faster computations above, where it has what they replace."""
    modules = [(getattr(encoder, "feature_extractor", None), _TiledConvolutions)]
    positions = getattr(encoder.encoder, "pos_conv_embed", None)
    modules += [(positions if hasattr(positions, "conv") else None, _FourierPositions)]
    modules += [(getattr(layer, "feed_forward", None), _ConvolvedFeedForward) for layer in encoder.encoder.layers]
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation("mer_by_head")
    for module, quick in modules:
        if module is not None:
            module.__class__ = type(type(module).__name__, (quick, type(module)), {})


class MERPreTrainedModel(PreTrainedModel):
    """Weights, loading and saving of MER models."""

    config_class = MERConfig
    base_model_prefix = "mer"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["MERMelBlock", "MERChordEncoder", "HubertEncoderLayer"]

    def __init__(self, config, *args, **kwargs):
        config.validate()  # what was set after it was made
        super().__init__(config, *args, **kwargs)

    def push_to_hub(self, repo_id, *, feature_extractor=None, **kwargs):
        """As in transformers, and the feature extractor beside the model, so that the repository works by its id.

        Args:
            repo_id (`str`): the repository, `"owner/name"`.
            feature_extractor (`MERFeatureExtractor`, *optional*): that of the place the model was loaded from by
                default.
            kwargs: as in transformers, such as `private`, `token`, `revision`.

        Raises:
            ValueError: no feature extractor is given, and there is none where the model comes from.
        """
        if feature_extractor is None:
            try:
                feature_extractor = MERFeatureExtractor.from_pretrained(self.name_or_path)
            except OSError as error:
                raise ValueError("Give feature_extractor: where the model was loaded from, there is none.") from error
        pushed = super().push_to_hub(repo_id, **kwargs)
        if kwargs.get("create_pr"):  # into the same pull request
            kwargs |= {"create_pr": False, "revision": pushed.pr_revision}
        shared = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")
        feature_extractor.push_to_hub(repo_id, **{name: kwargs[name] for name in shared if name in kwargs})
        return pushed

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Linear):
            # Linear layers here differ in width by a hundred: a fixed deviation would fit none of them.
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.constant_(module.bias, getattr(module, "initial_bias", 0.0))
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)


class MERModel(MERPreTrainedModel):
    """Encoder, chord encoder and trunk: a batch of clips in, one embedding a clip out."""

    def __init__(self, config: MERConfig):
        super().__init__(config)
        # Layers above the highest one in use are never built, hence never loaded or computed.
        encoder_config = copy.deepcopy(config.encoder_config)
        encoder_config.num_hidden_layers = max(config.layers)
        # Not by class: code from the Hub may have been loaded twice, under two names.
        if encoder_config.model_type == MERMelConfig.model_type:
            self.encoder = MERMelEncoder(encoder_config)
        else:
            # In training, LayerDrop would leave layers out of the hidden states, which are read by their place.
            encoder_config.layerdrop = 0.0
            self.encoder = AutoModel.from_config(encoder_config)
            if encoder_config.num_hidden_layers < config.encoder_config.num_hidden_layers and getattr(
                encoder_config, "do_stable_layer_norm", False
            ):
                # Pre-norm encoders normalise behind their last layer, which is not the last one of the full encoder.
                self.encoder.encoder.layer_norm = nn.Identity()
            _quicken(self.encoder)
        self.chord_encoder = MERChordEncoder(config) if config.use_chords else None
        self.dropout = nn.Dropout(config.head_dropout)
        width = config.embedding_size + config.use_chords * config.chord_size + config.use_mode
        width += config.use_chord_statistics * len(NO_CHORDS) + config.use_tonality * len(NO_TONALITY)
        self.trunk = nn.Linear(width, config.trunk_size)
        self.post_init()

    def encode_segments(self, input_values):
        """Whole segments (N, T) of one length -> their embeddings (N, D): time means of the chosen layers."""
        if isinstance(self.encoder, MERMelEncoder):
            hidden_states = self.encoder(input_values)
        else:
            hidden_states = self.encoder(input_values.to(self.dtype), output_hidden_states=True).hidden_states
        return torch.cat([hidden_states[layer].mean(dim=1) for layer in self.config.layers], dim=-1)

    def encode(self, input_values, lengths=None):
        """Run the encoder over the segments of a batch of clips.

        Segments of one length go together, up to [`SEGMENTS_AT_ONCE`] at a time, and a short one is cut to its real
        samples: so neither padding nor neighbours can change a result (HuBERT normalises over time, a mask would not do).

        Args:
            input_values (`torch.FloatTensor` of shape `(B, S, T)`): segments, zero-padded.
            lengths (`torch.LongTensor` of shape `(B, S)`, *optional*): real samples of each segment, 0 where there is
                none. All T by default.

        Returns:
            `torch.FloatTensor` of shape `(B, S, D)`.
        """
        if input_values.ndim != 3:
            raise ValueError(
                f"input_values must have the shape (clips, segments, samples), not {tuple(input_values.shape)}; "
                "MERFeatureExtractor makes it."
            )
        clips, segments, samples = input_values.shape
        flat = input_values.reshape(clips * segments, samples)
        counts = [samples] * len(flat) if lengths is None else lengths.flatten().tolist()
        groups = {}
        for index, count in enumerate(counts):
            if count > 0:
                groups.setdefault(count, []).append(index)
        order, parts = [], []
        # A CPU is busy with one segment of a large encoder, and its cache holds no more.
        together = 1 if flat.device.type == "cpu" and not isinstance(self.encoder, MERMelEncoder) else SEGMENTS_AT_ONCE
        for count, indices in groups.items():
            for start in range(0, len(indices), together):
                batch = indices[start : start + together]
                parts.append(self.encode_segments(flat[batch, :count]))
                order += batch
        embeddings = torch.zeros(len(flat), self.config.embedding_size, dtype=self.dtype, device=flat.device)
        if parts:
            embeddings = embeddings.index_copy(
                0, torch.tensor(order, device=flat.device), torch.cat(parts).to(self.dtype)
            )
        return embeddings.view(clips, segments, -1)

    def forward(
        self,
        input_values=None,
        segment_mask=None,
        lengths=None,
        chord_root_ids=None,
        chord_quality_ids=None,
        chord_mask=None,
        mode_ids=None,
        segment_embeddings=None,
        chord_statistics=None,
        tonality=None,
    ):
        """Compute the shared embedding of a batch of B clips.

        Args:
            input_values (`torch.FloatTensor` of shape `(B, S, T)`): segments of 30 s at the encoder's rate, zero-padded.
            segment_mask (`torch.LongTensor` of shape `(B, S)`, *optional*): 1 = a segment, 0 = padding.
            lengths (`torch.LongTensor` of shape `(B, S)`, *optional*): real samples of each segment, 0 = padding.
            chord_root_ids, chord_quality_ids (`torch.LongTensor` of shape `(B, L)`, *optional*): chords in order,
                transposed to C major / A minor. No chords by default.
            chord_mask (`torch.LongTensor` of shape `(B, L)`, *optional*): 1 = a chord, 0 = padding.
            mode_ids (`torch.LongTensor` of shape `(B,)`, *optional*): 0 = major (the default), 1 = minor.
            segment_embeddings (`torch.FloatTensor` of shape `(B, S, D)`, *optional*): in place of `input_values`, what
                the encoder made of it before.
            chord_statistics (`torch.FloatTensor` of shape `(B, 4)`, *optional*): what [`harmony_mer.summarize_chords`]
                counts; those of no chords by default. Read only if `config.use_chord_statistics`.
            tonality (`torch.FloatTensor` of shape `(B, 8)`, *optional*): see [`harmony_mer.Harmony`]; that of unknown
                music by default. Read only if `config.use_tonality`.

        Returns:
            [`MEROutput`] with `embedding` and `segment_embeddings`.
        """
        if (input_values is None) == (segment_embeddings is None):
            raise ValueError("Give either input_values or segment_embeddings.")
        if lengths is None and segment_mask is not None and input_values is not None:
            lengths = segment_mask.long() * input_values.shape[-1]
        if segment_embeddings is None:
            segment_embeddings = self.encode(input_values, lengths)
        segment_embeddings = segment_embeddings.to(self.dtype)
        clips, segments, _ = segment_embeddings.shape
        weights = lengths if self.config.segment_pooling == "duration" and lengths is not None else segment_mask
        if weights is None:
            weights = lengths > 0 if lengths is not None else segment_embeddings.new_ones(clips, segments)
        weights = weights.float() / weights.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = (segment_embeddings * weights.unsqueeze(-1).to(self.dtype)).sum(dim=1)

        features = [pooled]
        if self.config.use_chords:
            if chord_root_ids is None:
                chord_root_ids = torch.zeros(clips, 0, dtype=torch.long, device=pooled.device)
                chord_quality_ids = chord_mask = chord_root_ids
            elif chord_mask is None:
                chord_mask = torch.ones_like(chord_root_ids)
            features.append(self.chord_encoder(chord_root_ids, chord_quality_ids, chord_mask))
        if self.config.use_chord_statistics:
            if chord_statistics is None:
                chord_statistics = pooled.new_tensor(NO_CHORDS).expand(clips, -1)
            features.append(chord_statistics.to(pooled.dtype))
        if self.config.use_mode:
            mode = pooled.new_zeros(clips) if mode_ids is None else mode_ids.to(pooled.dtype)
            features.append(mode.unsqueeze(-1))
        if self.config.use_tonality:
            if tonality is None:
                tonality = pooled.new_tensor(NO_TONALITY).expand(clips, -1)
            features.append(tonality.to(pooled.dtype))
        embedding = torch.relu(self.trunk(self.dropout(torch.cat(features, dim=-1))))
        return MEROutput(embedding=embedding, segment_embeddings=segment_embeddings)


class MERForAudioClassification(MERPreTrainedModel):
    """MER with its two heads: mood tags (multi-label), and [valence, arousal]."""

    def __init__(self, config: MERConfig):
        super().__init__(config)
        self.mer = MERModel(config)
        self.mood_head = self._head(config, config.num_labels)
        self.valence_arousal_head = self._head(config, 4 if config.quadrant_head else 2)
        # An untrained head answers the middle of the scale.
        if not config.quadrant_head:
            self.valence_arousal_head[-1].initial_bias = sum(config.valence_arousal_range) / 2
        self.post_init()

    @staticmethod
    def _head(config, size):
        return nn.Sequential(
            nn.Linear(config.trunk_size, config.head_size),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_size, size),
        )

    @classmethod
    def from_encoder(cls, pretrained_model_name_or_path, layers=(6, 7), **kwargs):
        """New, untrained heads on a pretrained encoder: MERT, or any of [`WAVEFORM_ENCODERS`].

        MERT is read into `HubertModel`; its remote code is not run. Layers above the highest one in use are left out.
        The extractor that belongs to it: [`MERFeatureExtractor.from_encoder`].

        Args:
            pretrained_model_name_or_path (`str` or `Path`): a folder or Hub id, such as `"m-a-p/MERT-v1-95M"`.
            layers (`tuple[int, ...]`): the layers to read, counted from 1.
            kwargs: `revision`, `cache_dir`, `token` and such as in `from_pretrained`; the rest goes to [`MERConfig`].

        Raises:
            ValueError: not an encoder that this architecture can read, or weights that do not fit it exactly.
            OSError: there is no such model.
        """
        place = str(pretrained_model_name_or_path)
        options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        encoder_config = _encoder_config(place, options)
        try:
            config = MERConfig(encoder_config=encoder_config, layers=tuple(layers), **kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"{place}: {error.__cause__ or error}") from error
        try:
            encoder, info = AutoModel.from_pretrained(
                place, config=encoder_config, dtype=torch.float32, output_loading_info=True, **options
            )
        except RuntimeError as error:  # shapes that differ
            raise ValueError(f"{place}: its weights do not fit its configuration: {error}") from error
        except (OSError, ValueError):
            raise
        except Exception as error:  # torch's message advises to open the file without protection
            raise ValueError(f"{place}: its weights hold more than tensors, and nothing else is opened.") from error
        heads = {name for name in info["unexpected_keys"] if name.split(".")[0] in _OTHER_HEADS}
        missing = {name for name in info["missing_keys"] if name != "masked_spec_embed"}
        for found, what in ((missing, "missing"), (info["unexpected_keys"] - heads, "unknown")):
            if found:
                raise ValueError(
                    f"{place}: not a plain {encoder_config.model_type} encoder; of its weights {len(found)} are "
                    f"{what}: {', '.join(sorted(found)[:5])}{', ...' if len(found) > 5 else ''}."
                )
        if heads:
            logger.warning(f"{place}: left out {', '.join(sorted({name.split('.')[0] for name in heads}))}.")
        if info["missing_keys"]:
            logger.warning(f"{place}: has no masked_spec_embed; it is drawn anew, for SpecAugment in training alone.")
        model = cls(config)
        weights = encoder.state_dict()
        model.mer.encoder.load_state_dict({name: weights[name] for name in model.mer.encoder.state_dict()})
        return model.eval()

    def encode(self, input_values, lengths=None):
        """See [`MERModel.encode`]."""
        return self.mer.encode(input_values, lengths)

    def forward(
        self,
        input_values=None,
        segment_mask=None,
        lengths=None,
        chord_root_ids=None,
        chord_quality_ids=None,
        chord_mask=None,
        mode_ids=None,
        segment_embeddings=None,
        labels=None,
        valence_arousal_labels=None,
        quadrant_labels=None,
        chord_statistics=None,
        tonality=None,
    ):
        """Predict tags, valence and arousal; compute the loss of whatever labels are given.

        Inputs are those of [`MERModel.forward`]. A row without a kind of label contributes nothing to that loss.

        Args:
            labels (`torch.FloatTensor` of shape `(B, num_labels)`, *optional*): 1 = the tag holds, 0 = not; NaN =
                unknown.
            valence_arousal_labels (`torch.FloatTensor` of shape `(B, 2)`, *optional*): [valence, arousal] on
                `config.valence_arousal_range`; NaN = unknown.
            quadrant_labels (`torch.LongTensor` of shape `(B,)`, *optional*): 0 to 3 for Q1 (V+A+), Q2 (V-A+), Q3
                (V-A-), Q4 (V+A-); -100 = unknown.

        Returns:
            [`MEROutput`].
        """
        output = self.mer(
            input_values=input_values,
            segment_mask=segment_mask,
            lengths=lengths,
            chord_root_ids=chord_root_ids,
            chord_quality_ids=chord_quality_ids,
            chord_mask=chord_mask,
            mode_ids=mode_ids,
            segment_embeddings=segment_embeddings,
            chord_statistics=chord_statistics,
            tonality=tonality,
        )
        output.logits = self.mood_head(output.embedding)
        answer = self.valence_arousal_head(output.embedding)
        middle = sum(self.config.valence_arousal_range) / 2
        if self.config.quadrant_head:
            output.quadrant_logits, output.valence_arousal = answer, valence_arousal_of(answer) + middle
        else:
            output.quadrant_logits, output.valence_arousal = (answer - middle) @ _signs(answer) / 2, answer
        if labels is not None:
            output.mood_loss = mood_loss(output.logits, labels, self.config.tag_positive_rates)
        if valence_arousal_labels is not None:
            output.valence_arousal_loss = valence_arousal_loss(output.valence_arousal, valence_arousal_labels)
        if quadrant_labels is not None:
            output.quadrant_loss = quadrant_loss(output.quadrant_logits, quadrant_labels)
        parts = [output.mood_loss, output.valence_arousal_loss, output.quadrant_loss]
        if any(part is not None for part in parts):
            output.loss = sum(part for part in parts if part is not None)
        return output


def _encoder_config(place, options):
    """Configuration of the encoder in a folder or Hub repository, without its remote code."""
    values, _ = PreTrainedConfig.get_config_dict(place, **options)
    kind = values.get("model_type")
    if kind == MERConfig.model_type:
        raise ValueError(f"{place}: a MER model already; open it with from_pretrained.")
    if kind == MERT:
        # Its attention_relax needs no thought: it shifts scores before a softmax, which does not change that.
        for name in ("feature_extractor_cqt", "deepnorm"):
            if values.get(name):
                raise ValueError(f"{place}: has {name}=true, so it is not the plain HuBERT that MER can read.")
        known = HubertConfig().to_dict().keys() - {"architectures", "auto_map", "model_type"}
        config = HubertConfig(**{name: value for name, value in values.items() if name in known})
    elif kind in WAVEFORM_ENCODERS:
        config = AutoConfig.from_pretrained(place, **options)
    else:
        raise ValueError(
            f"{place}: model_type {kind!r} is no encoder that MER can read; those are {MERT}, "
            f"{', '.join(WAVEFORM_ENCODERS)}."
        )
    # SpecAugment refuses segments shorter than its masks; who wants it can set it.
    config.apply_spec_augment = False
    return config


def _mean_of_known(losses, known):
    # A sum over nothing keeps the graph, so that a batch without such labels trains the other heads.
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)


def mood_loss(logits, labels, positive_rates=None):
    """Binary cross-entropy over tags, weighted as published when the tags' positive rates are given.

    With p a tag's rate: `pos_weight = 1 / p`, `weight = 2 / (1 + 1 / p)` (Kang & Herremans, 2025).

    Args:
        logits, labels (`torch.FloatTensor` of shape `(B, tags)`): NaN labels are left out.
        positive_rates (`list[float]`, *optional*): p of each tag, in (0, 1].
    """
    pos_weight = weight = None
    if positive_rates is not None:
        inverse = 1 / torch.tensor(positive_rates, dtype=torch.float32, device=logits.device)
        pos_weight, weight = inverse, 2 / (1 + inverse)
    known = ~labels.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.float(), labels.nan_to_num().float(), weight, pos_weight=pos_weight, reduction="none"
    )
    return _mean_of_known(losses, known)


def valence_arousal_loss(predicted, labels):
    """Mean squared error of [valence, arousal], both (B, 2) on one scale; NaN labels are left out."""
    known = ~labels.isnan()
    return _mean_of_known((predicted.float() - labels.nan_to_num().float()).square(), known)


def quadrant_loss(logits, quadrants):
    """Cross-entropy of quadrants, halved: of two independent signs, it is the mean of both.

    Args:
        logits (`torch.FloatTensor` of shape `(B, 4)`): [`MEROutput`]'s `quadrant_logits`.
        quadrants (`torch.LongTensor` of shape `(B,)`): 0 to 3 for Q1 to Q4, -100 = unknown, left out.
    """
    losses = nn.functional.cross_entropy(logits.float(), quadrants, ignore_index=-100, reduction="none")
    return _mean_of_known(losses, quadrants >= 0) / 2


def valence_arousal_of(quadrant_logits):
    """Logits of Q1 to Q4 (B, 4) -> [valence, arousal] (B, 2) around 0, on the side of the likeliest quadrant."""
    q1, q2, q3, q4 = quadrant_logits.unbind(-1)
    valence = torch.maximum(q1, q4) - torch.maximum(q2, q3)
    return torch.stack((valence, torch.maximum(q1, q2) - torch.maximum(q3, q4)), dim=-1)


def _signs(like):
    """On which side valence (row 0) and arousal (row 1) of Q1 to Q4 are."""
    return like.new_tensor([[1, -1, -1, 1], [1, 1, -1, -1]])


__all__ = ["MEROutput", "MERForAudioClassification", "MERModel", "MERPreTrainedModel"]
